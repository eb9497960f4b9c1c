//! The Hub, and who asks it.

use std::time::Duration;

use mlxengine_hub::{HubConfig, HubError, HuggingFaceApi, Search, Transfer};

use super::Check;

const HUB: &str = "hub";
const TOKEN: &str = "token";
/// Whoever waits for a diagnosis does not wait for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the Hub answers, and whether it accepts the token.
pub(super) fn check(config: &HubConfig) -> Vec<Check> {
    let known = if config.token.is_some() { "one is set up" } else { "there is none; open models need none" };
    if config.offline {
        return vec![
            Check::skipped(HUB, "the network is switched off"),
            Check::skipped(TOKEN, format!("{known}; the network is switched off")),
        ];
    }
    let transfer = Transfer { attempts: 1, connect: PATIENCE, stall: PATIENCE, ..config.transfer.clone() };
    let config = HubConfig { transfer, ..config.clone() };
    // Without the token: a Hub refuses everything to one that it does not know.
    let stranger = HubConfig { token: None, ..config.clone() };
    let asked = HuggingFaceApi::new(&stranger).and_then(|api| api.search(&Search { limit: 1, ..Search::default() }));
    let mut checks = Vec::new();
    match asked {
        Ok(_) => checks.push(Check::ok(HUB, format!("{} answers", config.endpoint))),
        Err(error @ HubError::RateLimited { .. }) => {
            checks.push(Check::warning(HUB, error.message(), error.remedy().unwrap_or_default()));
        }
        Err(error) => {
            let check = Check::hub_error(HUB, &error);
            let offline = "work without it with --offline or HF_HUB_OFFLINE=1";
            let remedy = if error.passes() {
                "check the network, the proxy and HF_ENDPOINT".to_owned()
            } else {
                check.remedy.unwrap_or_default()
            };
            checks.push(Check { remedy: Some(format!("{remedy}; {offline}")), ..check });
            checks.push(Check::skipped(TOKEN, format!("{known}; the Hub does not answer")));
            return checks;
        }
    }
    checks.push(match HuggingFaceApi::new(&config).and_then(|api| api.whoami()) {
        Ok(None) => Check::skipped(TOKEN, known),
        Ok(Some(user)) => Check::ok(TOKEN, format!("it belongs to {}", user.name)),
        Err(error) if error.passes() => {
            Check::warning(TOKEN, format!("{known}; {}", error.message()), error.remedy().unwrap_or_default())
        }
        Err(error) => Check::hub_error(TOKEN, &error),
    });
    checks
}
