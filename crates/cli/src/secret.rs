//! The commands about secrets.

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use tarn_api::response::{AdminSecretList, SecretKeyReplaced};

use crate::{
    CliError, ListOptions,
    client::AdminClient,
    command::{check_id, pretty},
    input::read_secret,
    table::{table, time},
};

/// How long the replacement of a key may take.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What can be done with secrets.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum SecretCommand {
    /// Set a secret to what stdin holds, without a line break at its end; stdout is its id
    Set {
        /// Its name, which is that of the variable sandboxes get
        name: String,
        /// The name of its project
        #[arg(long, value_name = "NAME", default_value = "default")]
        project: String,
    },
    /// List the secrets of all projects, without their values
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Delete a secret; what runs with it runs on
    #[command(visible_alias = "remove")]
    Rm {
        /// The secret's id, as `tarn secret list` shows it
        id: String,
    },
    /// Replace the key that the secrets of all projects are sealed with: the file `secrets.key`, or
    /// what `secrets.master` says by now
    RotateKey,
}

pub(crate) async fn run(client: &AdminClient, command: SecretCommand) -> Result<String, CliError> {
    match command {
        SecretCommand::Set { name, project } => {
            let value = read_secret("value", "tarn secret set NAME < file")?;
            set(client, &project, &name, &value).await
        }
        SecretCommand::List(options) => list(client, options).await,
        SecretCommand::Rm { id } => {
            check_id(&id, "id of a secret; `tarn secret list` shows them", "SECRET_NOT_FOUND")?;
            let path = format!("/tarn/v1/secrets/{id}");
            client.call::<Value>(Method::DELETE, &path, None).await?;
            Ok(String::new())
        }
        SecretCommand::RotateKey => {
            let path = "/tarn/v1/secrets/key/rotate";
            // A key service may take a second for each project.
            let client = client.patient(ROTATE_TIMEOUT);
            let done: SecretKeyReplaced = client.call(Method::POST, path, None).await?;
            Ok(format!("replaced; the secrets of {} project(s) hang on it\n", done.projects))
        }
    }
}

async fn set(
    client: &AdminClient,
    project: &str,
    name: &str,
    value: &str,
) -> Result<String, CliError> {
    let body = json!({"project": project, "name": name, "value": value});
    let set: AdminSecretList = client.call(Method::PUT, "/tarn/v1/secrets", Some(&body)).await?;
    Ok(set.secrets.into_iter().map(|secret| format!("{}\n", secret.id)).collect())
}

async fn list(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: AdminSecretList = client.call(Method::GET, "/tarn/v1/secrets", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .secrets
        .into_iter()
        .map(|secret| {
            let times = [time(secret.created_at), time(secret.updated_at)];
            let [created, updated] = times;
            [secret.id, secret.name, secret.project_name, created, updated]
        })
        .collect();
    Ok(table(["ID", "NAME", "PROJECT", "CREATED", "SET"], &rows))
}
