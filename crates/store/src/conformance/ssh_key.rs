//! Registered SSH keys.

use std::sync::Arc;

use tarn_types::{SshKeyId, SshKeyRecord, SshPublicKey};

use super::{
    Case,
    sample::{T0, project},
    sandbox::expect_not_found,
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("SSH keys are listed oldest first", |s| Box::pin(list(s))),
    Case::new("an SSH key is registered once in a project", |s| Box::pin(once(s))),
    Case::new("an SSH key is of one project alone", |s| Box::pin(apart(s))),
];

/// Returns a key of project 1.
fn key(number: u8) -> SshKeyRecord {
    SshKeyRecord {
        id: SshKeyId::from_random([number; 16]),
        project: project(1),
        name: "laptop".to_owned(),
        key: SshPublicKey {
            algorithm: "ssh-ed25519".to_owned(),
            fingerprint: format!("SHA256:{number}"),
            line: format!("ssh-ed25519 {number}"),
        },
        created_at: T0.plus_millis(u64::from(number)),
        last_used_at: None,
    }
}

async fn list(store: Arc<dyn Store>) {
    assert_eq!(store.ssh_key_list(&project(1)).await.expect("a list"), []);
    let used = SshKeyRecord { last_used_at: Some(T0.plus_secs(9)), ..key(3) };
    let tie = SshKeyRecord { created_at: key(3).created_at, ..key(4) };
    for key in [&used, &tie, &key(1)] {
        store.ssh_key_insert(key).await.expect("inserted");
    }
    assert_eq!(store.ssh_key_list(&project(1)).await.expect("a list"), [key(1), used, tie]);
}

async fn once(store: Arc<dyn Store>) {
    store.ssh_key_insert(&key(1)).await.expect("inserted");
    let same_key = SshKeyRecord { id: key(2).id, ..key(1) };
    let same_id = SshKeyRecord { id: key(1).id, ..key(2) };
    for double in [key(1), same_key.clone(), same_id] {
        let refused = store.ssh_key_insert(&double).await;
        assert!(matches!(refused, Err(StoreError::Exists { what: "SSH key" })), "{refused:?}");
    }
    assert_eq!(store.ssh_key_list(&project(1)).await.expect("a list"), [key(1)]);
    store.ssh_key_delete(&project(1), &key(1).id).await.expect("removed");
    store.ssh_key_insert(&same_key).await.expect("it is free again");
}

async fn apart(store: Arc<dyn Store>) {
    let theirs = SshKeyRecord { id: key(2).id, project: project(2), ..key(1) };
    store.ssh_key_insert(&key(1)).await.expect("inserted");
    store.ssh_key_insert(&theirs).await.expect("another project may have the same");
    expect_not_found(&store.ssh_key_delete(&project(2), &key(1).id).await, "SSH key");
    store.ssh_key_delete(&project(2), &theirs.id).await.expect("removed");
    expect_not_found(&store.ssh_key_delete(&project(2), &theirs.id).await, "SSH key");
    assert_eq!(store.ssh_key_list(&project(2)).await.expect("a list"), []);
    assert_eq!(store.ssh_key_list(&project(1)).await.expect("a list"), [key(1)]);
}
