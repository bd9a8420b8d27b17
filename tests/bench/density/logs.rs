//! Logs that the driver writes itself: one loud task, and many while the log pump is killed.

use crate::Plan;
use crate::report::Report;
use anyhow::Result;

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.has("log_collection") {
        for figure in ["[logs] one task writes 1 GB", "[logs] 200 tasks write while the pump is killed"] {
            report.missing(figure, "not measured: no setting log_collection");
        }
    }
    Ok(())
}
