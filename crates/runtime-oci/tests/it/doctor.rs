//! What the driver says of the machine.

use std::fs;

use tarn_runtime_oci::{GvisorRuntime, examine};
use tarn_task::Tasks;
use tokio::sync::mpsc;

use crate::host::Host;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_runs_these_tests_has_everything() {
    let host = Host::new();
    let facts = examine(&host.config()).await;
    for fact in &facts {
        println!("{}: {} ({})", fact.name, fact.detail, if fact.ok { "ok" } else { fact.remedy });
    }
    assert!(facts.iter().all(|fact| fact.ok), "{facts:#?}");
    assert_eq!(facts.len(), 6);
    assert!(!host.state_dir().exists(), "an examination changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_its_remedy() {
    let host = Host::new();
    let mut config = host.config();
    let elsewhere = host.dir().join("elsewhere");
    config.runsc_dir.clone_from(&elsewhere);
    let facts = examine(&config).await;
    let runsc = &facts[0];
    assert!(!runsc.ok && runsc.detail.contains("elsewhere/runsc"), "{runsc:?}");
    assert_eq!(runsc.remedy, "./x setup");
    assert_eq!(facts.len(), 5, "nothing is tried without gVisor");

    let (sender, _events) = mpsc::channel(1);
    let error = GvisorRuntime::new(config, Tasks::new(), sender).await.unwrap_err();
    assert!(error.to_string().contains("./x setup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gvisors_own_prewarmer_is_refused() {
    let host = Host::new();
    let mut config = host.config();
    let copy = host.dir().join("gvisor");
    fs::create_dir_all(copy.join("gvisor-bin")).unwrap();
    for name in ["runsc", "gvisor-bin/gvisor_sentry", "gvisor-bin/checkpointgofer"] {
        std::os::unix::fs::symlink(config.runsc_dir.join(name), copy.join(name)).unwrap();
    }
    let prewarmer = copy.join("gvisor-bin/gvisor-sentry-prewarmer");
    std::os::unix::fs::symlink("/bin/false", &prewarmer).unwrap();
    config.runsc_dir = copy;
    let facts = examine(&config).await;
    let wrong: Vec<_> = facts.iter().filter(|fact| !fact.ok).collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0].remedy, "./x build");
}
