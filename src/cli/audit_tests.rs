//! What the audit says, and what it exits with.

use super::*;
use crate::messages::audit::ThingKind;
use crate::messages::runtime::{ContainerdFault, FaultKind};

fn thing(kind: ThingKind, name: &str, standing: Standing, outcome: Outcome) -> Thing {
    Thing {
        kind,
        name: name.to_owned(),
        container: None,
        owner: "/allocs/a".to_owned(),
        standing,
        why: "its allocation is gone".to_owned(),
        outcome,
    }
}

struct Fixed(Result<Report, AuditError>);

impl AuditDoor for Fixed {
    fn audit(&self, _audit: Audit) -> Answer<'_, Result<Report, AuditError>> {
        let answer = self.0.clone();
        Box::pin(async move { answer })
    }
}

async fn said(command: &AuditCommand, things: Vec<Thing>) -> Said {
    audit(command, &Fixed(Ok(Report { things }))).await
}

#[tokio::test]
async fn the_exit_code_tells_monitoring_what_there_is() {
    use Outcome::{Claimed, Failed, Kept, Removed};
    let orphan = |outcome| thing(ThingKind::Container, "web", Standing::Orphan, outcome);
    let leftover = thing(ThingKind::Cgroup, "/nomad/web", Standing::Leftover, Kept);
    let used = thing(ThingKind::Container, "db", Standing::InUse, Kept);
    let waiting = thing(ThingKind::Container, "db", Standing::Waiting, Kept);
    let foreign = thing(ThingKind::Container, "ctr", Standing::Foreign, Kept);
    for (things, code) in [
        (vec![], 0),
        (vec![used.clone(), waiting, foreign], 0),
        (vec![used.clone(), orphan(Kept)], 1),
        (vec![leftover.clone()], 1),
        (vec![orphan(Removed), orphan(Claimed)], 0),
        (vec![orphan(Removed), leftover], 1),
        (vec![orphan(Removed), orphan(Failed("busy".into()))], 3),
    ] {
        let said = said(&AuditCommand::default(), things.clone()).await;
        assert_eq!(said.code, code, "{things:?}");
    }
    let fault = ContainerdFault {
        kind: FaultKind::Unreachable,
        operation: "list containers",
        text: "no socket".into(),
    };
    let said = audit(&AuditCommand::default(), &Fixed(Err(fault.into()))).await;
    assert_eq!((said.code, said.text.as_str()), (2, ""));
    assert!(said.complaint.unwrap().contains("no socket"));
}

#[tokio::test]
async fn the_table_has_findings_first_and_no_control_characters() {
    let things = vec![
        thing(ThingKind::Container, "db", Standing::InUse, Outcome::Kept),
        thing(ThingKind::Container, "w\x1b[2Jeb", Standing::Orphan, Outcome::Kept),
        thing(ThingKind::Container, "theirs", Standing::Foreign, Outcome::Kept),
    ];
    let text = said(&AuditCommand::default(), things.clone()).await.text;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("KIND       NAME"), "{text}");
    assert!(lines[1].contains("w?[2Jeb") && lines[1].contains("orphan"), "{text}");
    assert!(
        lines[2].contains("db") && lines.last() == Some(&"1 thing is left over"),
        "{text}"
    );
    assert!(!text.contains("theirs"));
    let all = AuditCommand {
        all: true,
        ..AuditCommand::default()
    };
    assert!(said(&all, things).await.text.contains("theirs"));
    assert_eq!(said(&all, vec![]).await.text, "nothing is left over\n");
}

#[tokio::test]
async fn json_has_the_names_that_are_documented() {
    let command = AuditCommand {
        json: true,
        ..AuditCommand::default()
    };
    let things = vec![
        thing(
            ThingKind::RunDirectory,
            "/run/x",
            Standing::Orphan,
            Outcome::Failed("busy".into()),
        ),
        thing(ThingKind::Lease, "l", Standing::InUse, Outcome::Kept),
    ];
    let value: serde_json::Value = serde_json::from_str(&said(&command, things).await.text).unwrap();
    assert_eq!((&value["findings"], &value["failures"]), (&1.into(), &1.into()));
    let first = &value["things"][0];
    assert_eq!(first["kind"], "run_directory");
    assert_eq!(first["standing"], "orphan");
    assert_eq!(first["outcome"]["failed"], "busy");
    assert_eq!(value["things"][1]["outcome"], "kept");
    assert_eq!(value["things"][1]["standing"], "in_use");
}

#[test]
fn the_reaper_of_a_command_never_works_by_itself() {
    let command = AuditCommand {
        address: Some("/c.sock".into()),
        ..AuditCommand::default()
    };
    let settings = command.settings(Settings::default());
    assert_eq!(settings.containerd_address, "/c.sock");
    assert_eq!(settings.containerd_namespace, "nomad");
    assert!(!settings.reaper().enabled);
}
