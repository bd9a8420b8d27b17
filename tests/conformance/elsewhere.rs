//! Items that tests of other suites show, by their names; and what is not built, or only in part.

/// Suite (the folder) and test.
pub type Test = (&'static str, &'static str);

/// Item, and the tests that show it together.
pub const ELSEWHERE: &[(&str, &[Test])] = &[
    (
        "PROC-01",
        &[("protocol", "without_the_right_cookie_it_explains_itself_and_exits_1")],
    ),
    (
        "PROC-02",
        &[
            ("protocol", "the_handshake_is_one_line_of_six_fields_within_a_second"),
            ("protocol", "the_hosts_socket_directory_and_group_are_honoured"),
        ],
    ),
    (
        "PROC-03",
        &[("protocol", "the_seventh_field_comes_only_when_asked_for")],
    ),
    (
        "PROC-04",
        &[
            (
                "protocol",
                "without_containerd_the_driver_is_undetected_at_once_and_the_stream_stays",
            ),
            ("protocol", "schemas_need_no_configuration_and_never_change"),
            ("protocol", "the_probe_configures_twice_without_nomad_config"),
        ],
    ),
    ("PROC-05", &[("protocol", "raw_and_garbage_connections_disturb_nobody")]),
    ("PROC-06", &[("protocol", "health_is_that_of_the_service_plugin")]),
    ("PROC-07", &[("protocol", "tasks_outlive_every_way_the_plugin_can_end")]),
    ("PROC-08", &[("protocol", "tasks_outlive_every_way_the_plugin_can_end")]),
    ("PROC-09", &[("protocol", "tasks_outlive_every_way_the_plugin_can_end")]),
    ("PROC-11", &[("protocol", "every_line_is_what_the_host_can_parse")]),
    (
        "PROC-12",
        &[
            ("protocol", "a_plugin_whose_pipes_are_dead_works_on"),
            ("protocol", "a_host_that_does_not_read_holds_nothing_up"),
        ],
    ),
    (
        "PROC-13",
        &[("protocol", "an_unknown_method_is_unimplemented_and_harms_nobody")],
    ),
    (
        "PROC-14",
        &[("protocol", "a_second_copy_of_the_binary_disturbs_no_task")],
    ),
    ("PROC-15", &[("protocol", "a_request_of_six_mebibytes_is_decoded")]),
    (
        "PROC-16",
        &[("protocol", "five_hundred_waits_hold_nobody_up_and_all_end")],
    ),
    (
        "PROC-17",
        &[("protocol", "three_launches_tell_the_same_and_leave_no_socket")],
    ),
    (
        "PROC-18",
        &[("protocol", "schemas_need_no_configuration_and_never_change")],
    ),
    (
        "PROC-19",
        &[("protocol", "the_probe_configures_twice_without_nomad_config")],
    ),
    (
        "PROC-20",
        &[(
            "protocol",
            "every_form_of_an_empty_or_foreign_configuration_is_accepted",
        )],
    ),
    (
        "PROC-21",
        &[("protocol", "a_reattached_agent_finds_its_tasks_without_set_config")],
    ),
    (
        "PROC-22",
        &[
            ("protocol", "drivers_shutdown_is_answered_and_the_process_serves_on"),
            ("protocol", "tasks_outlive_every_way_the_plugin_can_end"),
        ],
    ),
    (
        "FP-03",
        &[(
            "protocol",
            "health_follows_containerd_through_start_hang_death_and_return",
        )],
    ),
    (
        "FP-05",
        &[
            ("protocol", "capabilities_never_change_and_promise_only_what_works"),
            ("protocol", "commands_run_in_a_task_and_have_their_own_code"),
        ],
    ),
    (
        "CFG-01",
        &[
            ("options", "groups_and_limits_and_directory_are_as_asked"),
            ("options", "names_of_other_drivers_mean_the_same"),
            ("options", "a_task_names_its_runtime_and_its_snapshotter"),
            ("options", "memory_cpu_and_processes_are_bounded_as_asked"),
            (
                "options",
                "capabilities_are_the_default_set_and_what_was_added_and_dropped",
            ),
            ("options", "namespaces_are_private_or_the_hosts_as_asked"),
            ("options", "host_paths_are_mounted_in_every_form"),
            ("options", "file_systems_in_memory_have_their_options"),
            ("options", "host_devices_are_given_in_both_forms"),
            ("options", "names_and_addresses_are_those_of_the_task"),
            ("options", "name_servers_are_the_groups_then_the_tasks_then_the_hosts"),
            ("options", "labels_and_annotations_are_on_the_container"),
        ],
    ),
    (
        "REC-09",
        &[
            ("lifecycle", "an_adopted_task_keeps_its_output_its_signals_and_its_code"),
            ("lifecycle", "a_task_that_ended_while_nobody_looked_has_its_code"),
        ],
    ),
    (
        "EXEC-01",
        &[("lifecycle", "notty_keeps_the_streams_apart_and_has_the_code")],
    ),
    ("EXEC-02", &[("lifecycle", "notty_output_comes_as_it_is_written")]),
    ("EXEC-03", &[("lifecycle", "notty_has_no_terminal")]),
    ("EXEC-04", &[("lifecycle", "notty_input_arrives_and_ends")]),
    (
        "EXEC-05",
        &[("lifecycle", "tty_merges_the_streams_with_line_ends_of_a_terminal")],
    ),
    (
        "EXEC-06",
        &[("lifecycle", "tty_has_the_last_size_that_came_before_the_start")],
    ),
    ("EXEC-07", &[("lifecycle", "tty_echoes_what_is_typed")]),
    ("EXEC-08", &[("lifecycle", "tty_session_ends_with_its_lead")]),
    ("EXEC-09", &[("lifecycle", "files_of_an_exec_stay_in_the_task")]),
    (
        "EXEC-11",
        &[("lifecycle", "what_is_no_exec_is_an_error_before_any_output")],
    ),
    (
        "EXEC-12",
        &[("lifecycle", "heartbeats_and_empty_input_are_no_end_of_input")],
    ),
    // No session of that suite ever closes its side.
    (
        "EXEC-13",
        &[("lifecycle", "notty_keeps_the_streams_apart_and_has_the_code")],
    ),
    (
        "EXEC-14",
        &[("lifecycle", "a_client_that_goes_takes_its_command_along")],
    ),
    ("EXEC-15", &[("lifecycle", "a_stopped_task_ends_its_sessions")]),
    ("EXEC-16", &[("lifecycle", "fifty_mib_to_a_slow_reader_are_whole")]),
    (
        "EXEC-17",
        &[("lifecycle", "a_child_that_holds_the_pipes_holds_up_nothing")],
    ),
    ("EXEC-18", &[("lifecycle", "a_hundred_at_once_are_all_right")]),
    ("EXEC-21", &[("lifecycle", "a_unary_exec_is_merged_and_capped")]),
    ("EXEC-22", &[("lifecycle", "a_unary_exec_is_killed_at_its_timeout")]),
    ("EXEC-23", &[("lifecycle", "a_unary_exec_is_merged_and_capped")]),
    (
        "LOG-10",
        &[
            ("lifecycle", "nomad_is_told_to_collect_nothing"),
            (
                "lifecycle",
                "both_streams_are_in_files_from_the_start_and_nothing_else_is",
            ),
            ("lifecycle", "files_are_rotated_between_lines_and_the_oldest_go"),
            (
                "lifecycle",
                "the_next_task_of_an_allocation_goes_on_where_the_last_ended",
            ),
        ],
    ),
    (
        "LIFE-18",
        &[
            (
                "chaos",
                "a_start_that_was_killed_at_any_step_succeeds_when_it_is_asked_again",
            ),
            (
                "chaos",
                "a_start_that_was_killed_at_any_step_and_is_asked_for_by_nobody_leaves_nothing",
            ),
        ],
    ),
    (
        "IMG-09",
        &[
            ("lifecycle", "an_archive_in_every_form_is_loaded_without_a_registry"),
            ("lifecycle", "what_is_no_archive_with_the_image_is_told"),
        ],
    ),
    (
        "GC-01",
        &[(
            "lifecycle",
            "an_image_goes_after_the_delay_and_what_others_share_of_it_stays",
        )],
    ),
    ("GC-02", &[("lifecycle", "nothing_is_removed_where_it_is_switched_off")]),
    (
        "GC-03",
        &[
            (
                "lifecycle",
                "a_use_within_the_delay_keeps_it_and_one_at_its_end_finds_it_whole",
            ),
            (
                "lifecycle",
                "a_restart_of_the_plugin_between_use_and_removal_does_not_keep_it",
            ),
        ],
    ),
    ("GC-04", &[("lifecycle", "it_goes_once_after_the_last_of_its_users")]),
    (
        "GC-05",
        &[
            ("lifecycle", "containers_of_others_stay"),
            (
                "lifecycle",
                "a_task_that_is_recovered_in_time_stays_and_one_that_is_not_goes",
            ),
            (
                "lifecycle",
                "a_container_of_a_dead_allocation_is_removed_with_all_it_has_and_not_before_the_grace",
            ),
        ],
    ),
    (
        "RES-07",
        &[
            ("options", "a_forker_ends_at_its_limit"),
            ("options", "the_operators_limit_of_processes_is_default_and_ceiling"),
        ],
    ),
    (
        "RB-01",
        &[(
            "lifecycle",
            "job_001_redis_with_cwd_hostname_seccomp_and_two_memory_limits",
        )],
    ),
    (
        "RB-02",
        &[("lifecycle", "job_002_an_invalid_signal_is_refused_in_known_words")],
    ),
    ("RB-03", &[("lifecycle", "job_003_capabilities_and_a_read_only_root")]),
    ("RB-04", &[("lifecycle", "job_004_privileged_with_devices_and_a_bind")]),
    (
        "RB-05",
        &[("lifecycle", "job_005_a_volume_twice_of_which_once_read_only")],
    ),
    ("RB-06", &[("lifecycle", "job_006_dns_of_the_group_and_sysctls")]),
    ("RB-07", &[("lifecycle", "job_007_extra_hosts_on_the_hosts_network")]),
    ("RB-08", &[("lifecycle", "job_008_an_entrypoint_with_arguments")]),
    ("RB-09", &[("lifecycle", "job_009_a_private_image_needs_credentials")]),
    ("RB-10", &[("lifecycle", "job_010_a_template_mounted_as_a_file")]),
    (
        "RB-11",
        &[("lifecycle", "job_011_privileged_is_refused_in_known_words")],
    ),
];

/// Items that no test shows, since what they ask for is not there.
pub const NOT_BUILT: &[(&str, &str)] = &[(
    "NET-09",
    "the driver makes no networks, and does not say that it can; Nomad's bridge publishes ports",
)];

/// How jobs and agents are stood in for.
const BY_PROTOCOL: &str = "through the plugin protocol as an agent speaks it, without an agent";

/// Items of which the tests show a part, and what they do not show.
pub const PARTS_ONLY: &[(&str, &str)] = &[
    (
        "REC-10",
        "40 tasks instead of 1,000 (8 in a user-mode guest), in 5 ms each",
    ),
    ("REC-12", BY_PROTOCOL),
    ("STAT-08", "40 tasks instead of 1,000 (8 in a user-mode guest)"),
    ("IMG-08", "a stream of progress that breaks is not provoked"),
    (
        "IMG-10",
        "file and programs are shown by unit tests and by `credentials.rs` of `tests/lifecycle` and `tests/images`",
    ),
    ("RB-01", BY_PROTOCOL),
    ("RB-02", BY_PROTOCOL),
    ("RB-03", BY_PROTOCOL),
    ("RB-04", BY_PROTOCOL),
    ("RB-05", BY_PROTOCOL),
    ("RB-06", BY_PROTOCOL),
    ("RB-07", BY_PROTOCOL),
    ("RB-08", BY_PROTOCOL),
    ("RB-09", BY_PROTOCOL),
    ("RB-10", BY_PROTOCOL),
    ("RB-11", BY_PROTOCOL),
];

/// What is different here on purpose, or else worth a sentence.
pub const NOTES: &[(&str, &str)] = &[
    (
        "PROC-04",
        "a containerd that was never seen makes the driver undetected rather than unhealthy",
    ),
    (
        "CFG-03",
        "a bare object in a JSON job is refused by the host itself: maps have the Go driver's type, `list(map(string))`",
    ),
    (
        "LIFE-06",
        "in the host's process namespace: the first process of a namespace is deaf to its own signals",
    ),
    (
        "MNT-06",
        "a relative source with any other `..` than that of `../alloc` is refused; of the allocation a task mounts what is its own and what is shared",
    ),
    (
        "MNT-07",
        "a relative source with any other `..` than that of `../alloc` is refused also here; who means it writes an absolute one",
    ),
    (
        "NET-07",
        "each task has a file of its own, so none can change what its neighbour resolves",
    ),
    ("RES-07", "a limit of 20 instead of 1"),
    (
        "RES-10",
        "with a score of 100 where the test may not lower one, as in an unprivileged container",
    ),
    ("IMG-07", "four starts in a user-mode guest"),
    ("GC-06", "20 tasks in a user-mode guest"),
    (
        "RB-01",
        "in all of them, the images of the jobs are replaced by plain ones",
    ),
];
