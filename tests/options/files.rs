//! `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`.

use crate::bench::{Bench, group};
use crate::look::{bench, consent, says, wants};
use serde_json::json;
use testhost::wire::driver::DnsConfig;

group!(files, bench(consent()), if wants("runc"), {
    names_and_addresses_are_those_of_the_task,
    name_servers_are_the_groups_then_the_tasks_then_the_hosts,
    without_host_dns_the_images_own_file_counts,
    the_task_cannot_replace_what_was_generated,
    what_the_task_writes_is_on_the_disk_of_its_allocation,
    what_cannot_be_in_these_files_is_refused,
});
group!(files_with_servers, bench(json!({ "dns_servers": ["9.9.9.9"], "volumes": { "enabled": true } })), if wants("runc"), {
    the_operators_name_servers_are_used,
    the_jobs_own_files_count_before_all_others,
});

async fn names_and_addresses_are_those_of_the_task(b: &mut Bench) {
    let options = json!({ "hostname": "me", "extra_hosts": ["db:10.1.2.3", "six:fd00::1", "gw:host-gateway"] });
    let script = "echo me=$(grep -c '[[:space:]]me$' /etc/hosts); echo db=$(grep db /etc/hosts | cut -f 1); echo six=$(grep six /etc/hosts | cut -f 1); echo gw=$(grep gw /etc/hosts | cut -f 1); echo name=$(cat /etc/hostname)";
    let seen = b.look(options, script).await;
    seen.are([("me", "1"), ("db", "10.1.2.3"), ("six", "fd00::1"), ("name", "me")]);
    assert!(seen.get("gw").parse::<std::net::IpAddr>().is_ok(), "{seen:?}");
}

async fn name_servers_are_the_groups_then_the_tasks_then_the_hosts(b: &mut Bench) {
    let script = "echo ns=$(sed -n 's/^nameserver //p' /etc/resolv.conf | tr '\\n' ' '); echo search=$(sed -n 's/^search //p' /etc/resolv.conf); echo opt=$(sed -n 's/^options //p' /etc/resolv.conf)";
    let own = json!({ "dns_servers": ["1.2.3.4"], "dns_search_domains": ["a.example"], "dns_options": ["ndots:3"] });
    let seen = b.look(own.clone(), script).await;
    seen.are([("ns", "1.2.3.4"), ("search", "a.example"), ("opt", "ndots:3")]);
    let mut spec = b.with_options(own, script);
    spec.dns = Some(DnsConfig {
        servers: vec!["5.6.7.8".to_owned()],
        searches: vec!["g.example".to_owned()],
        options: vec!["rotate".to_owned()],
    });
    let seen = b.seen(spec).await;
    seen.are([("ns", "5.6.7.8"), ("search", "g.example"), ("opt", "rotate")]);
    let host = json!({ "host_network": true });
    let seen = b.look(host, "echo sum=$(md5sum </etc/resolv.conf)").await;
    let want = std::process::Command::new("sh")
        .args(["-c", "md5sum </etc/resolv.conf"])
        .output()
        .expect("md5sum");
    let want = String::from_utf8_lossy(&want.stdout).into_owned();
    assert_eq!(seen.words("sum").first(), want.split_whitespace().next().as_ref());
}

async fn without_host_dns_the_images_own_file_counts(b: &mut Bench) {
    let script = "echo there=$(test -e /etc/resolv.conf && echo yes || echo no); echo mounted=$(grep -c ' /etc/resolv.conf ' /proc/self/mountinfo)";
    let seen = b.look(json!({ "host_dns": false }), script).await;
    seen.are([("there", "no"), ("mounted", "0")]);
    let seen = b.look(json!({ "host_dns": true }), script).await;
    seen.are([("there", "yes"), ("mounted", "1")]);
    // What the job asks for counts all the same.
    let seen = b
        .look(json!({ "host_dns": false, "dns_servers": ["1.2.3.4"] }), script)
        .await;
    seen.are([("there", "yes"), ("mounted", "1")]);
}

async fn the_operators_name_servers_are_used(b: &mut Bench) {
    let script = "echo ns=$(sed -n 's/^nameserver //p' /etc/resolv.conf | tr '\\n' ' ')";
    b.look(json!({}), script).await.are([("ns", "9.9.9.9")]);
}

async fn the_jobs_own_files_count_before_all_others(b: &mut Bench) {
    let own = b.rig.dir().join("own");
    std::fs::write(&own, "of the job\n").expect("a file");
    let own = own.display();
    let options = json!({
        "dns_servers": ["1.2.3.4"],
        "extra_hosts": ["a:1.1.1.1"],
        "volumes": [format!("{own}:/etc/resolv.conf:ro")],
        "mounts": [{ "type": "bind", "source": own.to_string(), "target": "/etc/hosts", "options": ["rbind", "ro"] }],
        "mount": [{ "type": "bind", "source": own.to_string(), "target": "/etc/hostname", "readonly": true }],
    });
    let script = "for f in resolv.conf hosts hostname; do echo $f=$(cat /etc/$f); done";
    let mut spec = b.with_options(options, script);
    for dns in [
        None,
        Some(DnsConfig {
            servers: vec!["5.6.7.8".to_owned()],
            ..DnsConfig::default()
        }),
    ] {
        spec.dns = dns;
        let seen = b.seen(spec.clone()).await;
        seen.are([
            ("resolv.conf", "of the job"),
            ("hosts", "of the job"),
            ("hostname", "of the job"),
        ]);
    }
}

/// In memory it would be the node's.
async fn what_the_task_writes_is_on_the_disk_of_its_allocation(b: &mut Bench) {
    let script =
        "echo 10.9.8.7 written >>/etc/hosts && echo written >/etc/hostname; echo write=$?; echo ready; sleep 3600";
    let task = b.start(b.sh(script)).await;
    task.wait_line(crate::bench::patience(), "ready").await;
    let seen = crate::look::pairs(&task.logs().stdout.text());
    seen.are([("write", "0")]);
    let dir = task.alloc.task_dir(&task.config.name).join(".containerd-driver");
    let on_host = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a file of the task");
    assert!(on_host("hosts").ends_with("10.9.8.7 written\n"), "{}", on_host("hosts"));
    assert_eq!(on_host("hostname"), "written\n");
    crate::look::end(task).await;
}

async fn the_task_cannot_replace_what_was_generated(b: &mut Bench) {
    let script = "find /local /alloc /secrets -name hosts -o -name resolv.conf -o -name hostname -o -name .containerd-driver | wc -l >/tmp/n; echo found=$(cat /tmp/n)";
    b.look(json!({ "extra_hosts": ["a:1.1.1.1"] }), script)
        .await
        .are([("found", "0")]);
}

async fn what_cannot_be_in_these_files_is_refused(b: &mut Bench) {
    for (options, words) in [
        (
            json!({ "extra_hosts": ["nocolon"] }),
            ["bad format for add-host", "nocolon"],
        ),
        (
            json!({ "extra_hosts": ["a:nope"] }),
            ["invalid IP address in add-host", "nope"],
        ),
        (
            json!({ "dns_servers": ["not-an-address"] }),
            ["dns_servers", "not-an-address"],
        ),
        (json!({ "dns_search_domains": ["a b"] }), ["dns_search_domains", "a b"]),
    ] {
        says(&b.refused(options).await, &words);
    }
}
