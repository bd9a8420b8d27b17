//! Which filter a container has.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::node::NodeFacts;
use crate::spec::options::TaskOptions;
use crate::spec::settings::Settings;

const OWN: &str = r#"{"defaultAction": "SCMP_ACT_LOG"}"#;

struct Case {
    settings: Settings,
    node: NodeFacts,
    options: TaskOptions,
}

impl Case {
    fn new(settings: Settings) -> Self {
        let mut node = NodeFacts::default();
        node.security.seccomp_profile = Some(Ok(OWN.to_owned()));
        Self {
            settings,
            node,
            options: TaskOptions::default(),
        }
    }

    fn consent(mut self) -> Self {
        self.settings.allow_unconfined = Some(vec!["seccomp".to_owned()]);
        self
    }

    fn seccomp(mut self, on: bool) -> Self {
        self.options.seccomp = Some(on);
        self
    }

    fn file(mut self, path: &str) -> Self {
        self.options.seccomp_profile = Some(path.to_owned());
        self
    }

    fn opt(mut self, item: &str) -> Self {
        self.options.security_opt.push(item.to_owned());
        self
    }

    fn without_kernel(mut self) -> Self {
        self.node.security.seccomp = false;
        self
    }

    fn task(&self) -> TaskSpec {
        TaskSpec {
            name: "web".to_owned(),
            alloc_dir: "/a".into(),
            options: self.options.clone(),
            ..TaskSpec::default()
        }
    }

    /// `none`, `default`, `own`, or the error.
    fn ends_with(&self) -> String {
        let task = self.task();
        let inputs = Inputs {
            task: &task,
            image: &ImageFacts::default(),
            node: &self.node,
            settings: &self.settings,
            gates: &Gates::of(&self.settings).unwrap(),
        };
        let chosen = SecurityOpt::of(&task).and_then(|opt| choose(&inputs, &opt, &BTreeSet::new()));
        match chosen {
            Ok(None) => "none".to_owned(),
            Ok(Some(filter)) if filter["defaultAction"] == "SCMP_ACT_LOG" => "own".to_owned(),
            Ok(Some(_)) => "default".to_owned(),
            Err(e) => e.to_string(),
        }
    }
}

fn strict() -> Case {
    Case::new(Settings::default())
}

fn go() -> Case {
    Case::new(Settings::go_driver())
}

#[test]
fn the_table_of_the_module_holds() {
    for (case, is) in [
        (strict(), "default"),
        (go(), "none"),
        (strict().seccomp(true), "default"),
        (go().seccomp(true), "default"),
        (go().opt("seccomp=default"), "default"),
        (strict().opt("seccomp=builtin"), "default"),
        (strict().consent().seccomp(false), "none"),
        (go().seccomp(false), "none"),
        (go().opt("seccomp:unconfined"), "none"),
        (strict().consent().opt("seccomp=unconfined"), "none"),
        (strict().consent().file("/p.json"), "own"),
        (go().seccomp(true).file("/p.json"), "own"),
        (go().opt("seccomp=/p.json"), "own"),
        (go().opt("seccomp=/p.json").file("/p.json"), "own"),
        (strict().consent().opt("seccomp=local/p.json"), "own"),
    ] {
        assert_eq!(case.ends_with(), is, "{:?}", case.options);
    }
}

#[test]
fn a_profile_without_seccomp_is_refused_in_the_go_drivers_words() {
    let words = "option seccomp_profile: \"/p.json\": seccomp must be set to true, if using a custom seccomp_profile.";
    assert_eq!(go().file("/p.json").ends_with(), words);
    assert_eq!(go().seccomp(false).file("/p.json").ends_with(), words);
    assert_eq!(strict().consent().seccomp(false).file("/p.json").ends_with(), words);
}

#[test]
fn no_filter_and_no_own_filter_without_consent() {
    for (case, option) in [
        (strict().seccomp(false), "option seccomp: \"false\""),
        (
            strict().opt("seccomp=unconfined"),
            "option security_opt: \"seccomp=unconfined\"",
        ),
        (strict().file("/p.json"), "option seccomp_profile: \"/p.json\""),
        (
            strict().seccomp(true).file("local/p.json"),
            "option seccomp_profile: \"local/p.json\"",
        ),
        (strict().opt("seccomp=/p.json"), "option security_opt: \"/p.json\""),
    ] {
        let error = case.ends_with();
        assert!(
            error.contains(option) && error.contains("allow_unconfined with \"seccomp\" in it"),
            "{error}"
        );
    }
}

#[test]
fn contradictions_are_refused_with_both_named() {
    for (case, other) in [
        (go().seccomp(true).opt("seccomp=unconfined"), "seccomp = true"),
        (go().seccomp(false).opt("seccomp=default"), "seccomp = false"),
        (go().seccomp(false).opt("seccomp=/p"), "seccomp = false"),
        (go().file("/p").opt("seccomp=/q"), "seccomp_profile = \"/p\""),
        (go().file("/p").opt("seccomp=unconfined"), "seccomp_profile = \"/p\""),
    ] {
        let error = case.ends_with();
        assert!(
            error.starts_with("option security_opt: \"seccomp=") && error.contains(other),
            "{error}"
        );
    }
}

#[test]
fn a_privileged_container_has_a_filter_only_if_it_asks() {
    for (mut case, want) in [
        (strict(), "none"),
        (strict().opt("seccomp=unconfined"), "none"),
        (strict().seccomp(true), "default"),
        (go().seccomp(true), "default"),
    ] {
        case.options.privileged = true;
        assert_eq!(case.ends_with(), want);
    }
}

#[test]
fn a_kernel_without_filters_is_an_error_only_for_who_asks() {
    assert_eq!(strict().without_kernel().ends_with(), "none");
    assert_eq!(go().seccomp(false).without_kernel().ends_with(), "none");
    for case in [
        strict().seccomp(true),
        strict().opt("seccomp=default"),
        go().seccomp(true).file("/p"),
    ] {
        let error = case.without_kernel().ends_with();
        assert!(
            error.contains("the kernel of this node has no seccomp filters"),
            "{error}"
        );
    }
}

#[test]
fn the_file_is_looked_up_where_it_cannot_lead_elsewhere() {
    let wanted = |case: Case| wanted_profile(&case.task());
    let beneath = |rest: &str| {
        Some(ProfileFile::Beneath {
            dir: "/a".into(),
            rest: rest.into(),
        })
    };
    assert_eq!(
        wanted(go().seccomp(true).file("/p.json")),
        Some(ProfileFile::Host("/p.json".into()))
    );
    assert_eq!(wanted(go().opt("seccomp=local/p.json")), beneath("web/local/p.json"));
    for case in [
        strict(),
        strict().seccomp(true),
        go().opt("seccomp=unconfined"),
        go().opt("seccomp=../x"),
        go().opt("what"),
    ] {
        assert_eq!(wanted(case), None);
    }
    let error = go().opt("seccomp=local/../../x").ends_with();
    assert!(error.contains("without '..'"), "{error}");
    let mut case = go().opt("seccomp=x");
    case.node.security.seccomp_profile = Some(Err("it is no regular file".to_owned()));
    assert!(
        case.ends_with()
            .contains("option security_opt: \"x\": it is no regular file")
    );
    case.node.security.seccomp_profile = Some(Ok("{}".to_owned()));
    assert!(
        case.ends_with()
            .contains("no seccomp profile: defaultAction is missing")
    );
}
