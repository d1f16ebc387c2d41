//! The account with an authority: made once for each directory, kept in `account.json`.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use tarn_task::Tasks;
use zeroize::Zeroizing;

use crate::{
    AcmeConfig, AcmeError,
    file::{self, blocking},
    http::AuthorityClient,
};

/// What the authority says of an account that it has forgotten.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

#[derive(Serialize, Deserialize)]
struct Stored {
    directory: String,
    credentials: AccountCredentials,
}

/// Returns the account, which is made first if there is none with this directory.
pub(crate) async fn open(
    config: &AcmeConfig,
    client: &AuthorityClient,
    tasks: &Tasks,
) -> Result<Account, AcmeError> {
    let path = config.dir.join("account.json");
    let failed = |step| {
        let path = path.clone();
        move |source| AcmeError::File { step, path, source }
    };
    let builder = Account::builder_with_http(client.boxed());
    let authority = |step| move |source| AcmeError::Authority { step, source };
    let (own, unread) = (path.clone(), failed("read"));
    let read = blocking(tasks, move || file::read(&own).map_err(unread)).await?;
    let bytes = read.map(Zeroizing::new);
    let stored = bytes.and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
    if let Some(stored) = stored
        && stored.directory == config.directory
    {
        let opened = builder.from_credentials(stored.credentials).await;
        return opened.map_err(authority("read the authority's directory"));
    }
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
    let account = NewAccount {
        contact: &contacts,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let binding = config.binding.as_ref();
    let binding = binding.map(|known| ExternalAccountKey::new(known.key_id.clone(), &known.key));
    let made = builder.create(&account, config.directory.clone(), binding.as_ref()).await;
    let (account, credentials) = made.map_err(authority("make an account with the authority"))?;
    let stored = Stored { directory: config.directory.clone(), credentials };
    let bytes = serde_json::to_vec_pretty(&stored).map(Zeroizing::new);
    let bytes = bytes.map_err(std::io::Error::other).map_err(failed("write"))?;
    let unwritten = failed("write");
    blocking(tasks, move || file::write(&path, &bytes).map_err(unwritten)).await?;
    tracing::info!(acme.directory = %config.directory, "an account with the authority was made");
    Ok(account)
}

/// Forgets the account if the authority has forgotten it, so that the next try makes a new one.
pub(crate) fn forget_if_unknown(config: &AcmeConfig, error: &AcmeError) {
    let AcmeError::Authority { source: instant_acme::Error::Api(problem), .. } = error else {
        return;
    };
    if problem.r#type.as_deref() == Some(NO_ACCOUNT) {
        // If it stays, the next try fails in the same way.
        drop(std::fs::remove_file(config.dir.join("account.json")));
    }
}
