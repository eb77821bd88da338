//! The requests that an agent made of a runtime beside the reference agent's records.

use podkeeper::cri::v1;
use serde_json::json;

use crate::records::{Kind, Places, Recorded, in_their_terms};
use crate::runtime::Call;

/// The sandboxes and containers that were made, in order, as the records name them.
fn made(calls: &[Call]) -> Vec<String> {
    let mut made: Vec<String> = vec![];
    for call in calls {
        let name = call.subject.container.as_deref().unwrap_or_default();
        let told = match call.method {
            "RunPodSandbox" => "RunPodSandbox".to_owned(),
            "CreateContainer" => format!("CreateContainer {name}"),
            _ => continue,
        };
        made.push(told);
    }
    made
}

pub(crate) fn sandbox_request(calls: &[Call]) -> &v1::RunPodSandboxRequest {
    calls.iter().find_map(Call::request).unwrap()
}

/// Our requests for one Pod are those of the record.
pub(crate) fn compare(calls: &[Call], recorded: &Recorded, places: &Places) {
    let file = recorded.manifest.display();
    let uid = &recorded.pod.uid;
    assert_eq!(made(calls), recorded.calls(), "{file}");

    let run = sandbox_request(calls);
    let config = run.config.as_ref().unwrap();
    let sandbox = in_their_terms(Kind::Sandbox, config, uid, places);
    assert_eq!(sandbox, recorded.sandbox(), "{file}");
    assert_eq!(run.runtime_handler, recorded.handler(), "{file}");

    let mut containers = vec![];
    for request in calls
        .iter()
        .filter_map(Call::request::<v1::CreateContainerRequest>)
    {
        assert_eq!(request.sandbox_config.as_ref(), Some(config), "{file}");
        let config = request.config.as_ref().unwrap();
        containers.push(in_their_terms(Kind::Container, config, uid, places));
    }
    containers.sort_by_key(|c| c["metadata"]["name"].as_str().unwrap().to_owned());
    assert_eq!(json!(containers), json!(recorded.containers()), "{file}");
}
