//! Nomad's base service: who we are, what can be configured, and the configuration itself.

use super::pb::base as pb;
use super::pb::base::base_plugin_server::BasePlugin;
use super::rpc::call;
use super::{DRIVER_NAME, schema, status};
use crate::messages::doors::SettingsDoor;
use crate::spec::settings::{self, Settings};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The only driver API there has been since Nomad 0.9; the host picks a version that it knows.
const API_VERSION: &str = "v0.1.0";

/// The node's compute as the host last told it. `None` until a host did (the probe at agent start never does, a host
/// that re-attaches does not again).
pub type NodeCompute = Arc<ArcSwapOption<Compute>>;

/// What CPU usage in MHz is reckoned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// MHz of all cores, or what the agent's configuration says.
    pub total_mhz: u64,
    /// Number of cores.
    pub cores: u32,
}

type Reply<T> = Result<Response<T>, Status>;

/// The service.
pub(super) struct Base {
    settings: Arc<dyn SettingsDoor>,
    compute: NodeCompute,
}

impl Base {
    pub(super) fn new(settings: Arc<dyn SettingsDoor>, compute: NodeCompute) -> Self {
        Self { settings, compute }
    }

    /// The host sends this twice while it probes, before anything runs, and an error there stops the whole agent from
    /// starting: only the text is checked, nothing is contacted.
    fn configure(&self, request: &pb::SetConfigRequest) -> Result<(), Status> {
        let settings = match request.msgpack_config.as_slice() {
            [] => Settings::default(),
            bytes => settings::decode(bytes).map_err(|e| status::of_spec(&e))?,
        };
        let driver = request.nomad_config.as_ref().and_then(|n| n.driver.as_ref());
        if let Some(told) = driver.and_then(|d| d.topology.as_ref()).and_then(compute) {
            self.compute.store(Some(Arc::new(told)));
            self.settings.count_compute(told.total_mhz);
        }
        self.settings.apply(settings);
        Ok(())
    }
}

/// A core's speed is the base speed, else the greatest, else a guess (Nomad `client/lib/numalib`).
fn compute(t: &pb::ClientTopology) -> Option<Compute> {
    let speed = |c: &pb::ClientTopologyCore| [c.base_speed, c.max_speed, c.guess_speed].into_iter().find(|s| *s > 0);
    let sum = t.cores.iter().filter_map(speed).fold(0, u64::saturating_add);
    let total_mhz = if t.override_total_compute > 0 {
        t.override_total_compute
    } else {
        sum
    };
    let cores = u32::try_from(t.cores.len()).unwrap_or(u32::MAX);
    (cores > 0 && total_mhz > 0).then_some(Compute { total_mhz, cores })
}

fn info() -> pb::PluginInfoResponse {
    pb::PluginInfoResponse {
        r#type: pb::PluginType::Driver.into(),
        plugin_api_versions: vec![API_VERSION.to_owned()],
        plugin_version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
        name: DRIVER_NAME.to_owned(),
    }
}

#[tonic::async_trait]
impl BasePlugin for Base {
    async fn plugin_info(&self, request: Request<pb::PluginInfoRequest>) -> Reply<pb::PluginInfoResponse> {
        call!("PluginInfo", &request).answer(async { Ok(info()) }).await
    }

    async fn config_schema(&self, request: Request<pb::ConfigSchemaRequest>) -> Reply<pb::ConfigSchemaResponse> {
        let answer = async {
            Ok(pb::ConfigSchemaResponse {
                spec: Some(schema::root(&settings::schema())),
            })
        };
        call!("ConfigSchema", &request).answer(answer).await
    }

    async fn set_config(&self, request: Request<pb::SetConfigRequest>) -> Reply<pb::SetConfigResponse> {
        let answer = async { self.configure(request.get_ref()).map(|()| pb::SetConfigResponse {}) };
        call!("SetConfig", &request).answer(answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::fake::FakeSettings;
    use prost::Message as _;

    #[test]
    fn info_has_the_bytes_that_nomad_has() {
        let demo = pb::PluginInfoResponse {
            plugin_version: "v0.9.3".into(),
            name: "demo".into(),
            ..info()
        };
        let hex: String = demo.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0802120676302e312e301a0676302e392e33220464656d6f");
    }

    fn topology(cores: &[(u64, u64, u64, bool)], override_total_compute: u64) -> pb::ClientTopology {
        let core = |&(base_speed, max_speed, guess_speed, disable): &(u64, u64, u64, bool)| pb::ClientTopologyCore {
            base_speed,
            max_speed,
            guess_speed,
            disable,
            ..Default::default()
        };
        pb::ClientTopology {
            cores: cores.iter().map(core).collect(),
            override_total_compute,
            ..Default::default()
        }
    }

    #[test]
    fn compute_is_reckoned_as_nomad_does() {
        let cores = [(2000, 3000, 0, false), (0, 3000, 1, false), (0, 0, 1000, true)];
        assert_eq!(
            compute(&topology(&cores, 0)),
            Some(Compute {
                total_mhz: 6000,
                cores: 3
            })
        );
        assert_eq!(
            compute(&topology(&cores, 9000)),
            Some(Compute {
                total_mhz: 9000,
                cores: 3
            })
        );
        assert_eq!(compute(&topology(&[], 0)), None);
    }

    #[test]
    fn topology_stays_when_a_later_call_has_none() {
        let settings = Arc::new(FakeSettings::default());
        let base = Base::new(settings.clone(), NodeCompute::default());
        let driver = pb::NomadDriverConfig {
            topology: Some(topology(&[(1000, 0, 0, false)], 0)),
            ..Default::default()
        };
        let told = pb::SetConfigRequest {
            nomad_config: Some(pb::NomadConfig { driver: Some(driver) }),
            ..Default::default()
        };
        base.configure(&told).unwrap();
        base.configure(&pb::SetConfigRequest::default()).unwrap();
        assert_eq!(
            base.compute.load().as_deref(),
            Some(&Compute {
                total_mhz: 1000,
                cores: 1
            })
        );
        assert_eq!((settings.applied(), settings.counted()), (2, 1000));
    }
}
