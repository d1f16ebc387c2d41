//! The commands about images and registries.

use std::{
    path::{self, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use tarn_api::response::{
    AdminImage, AdminImageList, AdminImageNames, AdminRegisteredImage, AdminRegistryLogin,
    AdminRegistryLoginList,
};

use crate::{
    CliError, ListOptions,
    client::AdminClient,
    command::pretty,
    input::read_secret,
    table::{table, time},
};

/// How long an image may take to come.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// What can be done with images.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ImageCommand {
    /// Pull an image and give it a name; stdout is its digest, once it is here
    Pull {
        /// What to pull, such as `python:3.12-slim` or `ghcr.io/team/app@sha256:…`
        reference: String,
        /// The name it gets [default: the reference]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Whose name it is
        #[command(flatten)]
        scope: ScopeOptions,
    },
    /// Import an image from a file and give it a name; stdout is its digest
    Import {
        /// An OCI layout, as a directory or a tar, or what `docker save` writes
        file: PathBuf,
        /// The name it gets
        name: String,
        /// Which image, if the file holds several: its reference or tag there
        #[arg(long, value_name = "REF")]
        choose: Option<String>,
        /// Whose name it is
        #[command(flatten)]
        scope: ScopeOptions,
    },
    /// List registered, pulled and imported images, and pulls under way
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Take a name away, or with digits of a digest all names; the image goes when nothing needs
    /// it. A registered image is deleted. `--project` and `--global` are for names alone
    #[command(visible_alias = "remove")]
    Rm {
        /// The name, `sha256:` and the first digits of the digest, or the id of a registered image
        image: String,
        /// Whose name it is
        #[command(flatten)]
        scope: ScopeOptions,
    },
    /// Set what a project shows to a registry; stdin is the password or token
    Login {
        /// The registry's host, with its port if it has one; `docker.io` is Docker's
        registry: String,
        /// The user's name there
        #[arg(long, short, value_name = "NAME")]
        username: String,
        /// The name of the project
        #[arg(long, value_name = "NAME", default_value = "default")]
        project: String,
    },
    /// List what projects show to registries, without the passwords
    Logins(ListOptions),
    /// Remove what a project shows to a registry
    Logout {
        /// The registry
        registry: String,
        /// The name of the project
        #[arg(long, value_name = "NAME", default_value = "default")]
        project: String,
    },
}

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScopeOptions {
    /// The name of the project whose name it is [default: default]
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// The name counts in every project; no login is used
    #[arg(long, conflicts_with = "project")]
    pub global: bool,
}

pub(crate) async fn run(client: &AdminClient, command: ImageCommand) -> Result<String, CliError> {
    match command {
        ImageCommand::Pull { reference, name, scope } => {
            let body = scope.body(json!({"reference": reference, "name": name}));
            order(client, "/tarn/v1/images/pull", &body).await
        }
        ImageCommand::Import { file, name, choose, scope } => {
            // The server has another working directory.
            let file = path::absolute(&file).map_err(|source| CliError::Input { source })?;
            let body = scope.body(json!({"file": file, "name": name, "choose": choose}));
            order(client, "/tarn/v1/images/import", &body).await
        }
        ImageCommand::List(options) => list(client, options).await,
        ImageCommand::Rm { image, scope } => {
            let body = removal(&image, &scope)?;
            let path = "/tarn/v1/images/remove";
            client.call::<AdminImageNames>(Method::POST, path, Some(&body)).await?;
            Ok(String::new())
        }
        ImageCommand::Login { registry, username, project } => {
            let example = "tarn image login REGISTRY --username NAME < token";
            let password = read_secret("password", example)?;
            let body = json!({"project": project, "registry": registry, "username": username,
                "password": password});
            let path = "/tarn/v1/registry-logins";
            let set: AdminRegistryLogin = client.call(Method::PUT, path, Some(&body)).await?;
            Ok(format!("{}\n", set.registry))
        }
        ImageCommand::Logins(options) => list_logins(client, options).await,
        ImageCommand::Logout { registry, project } => {
            let body = json!({"project": project, "registry": registry});
            let path = "/tarn/v1/registry-logins/remove";
            client.call::<Value>(Method::POST, path, Some(&body)).await?;
            Ok(String::new())
        }
    }
}

/// Has an image brought, which may take long.
async fn order(client: &AdminClient, path: &str, body: &Value) -> Result<String, CliError> {
    let client = client.patient(PATIENCE);
    let done: AdminImageNames = client.call(Method::POST, path, Some(body)).await?;
    Ok(done.names.into_iter().map(|name| format!("{}\n", name.digest)).collect())
}

/// Says which name or image goes. No digest and no id is a project's: whoever names a project, too,
/// expects less to go than would.
fn removal(image: &str, scope: &ScopeOptions) -> Result<Value, CliError> {
    let digits = image.strip_prefix("sha256:").or_else(|| image.strip_prefix("sha512:"));
    // No name begins like an id.
    let is_id = ["image_", "sandbox_template_"].iter().any(|prefix| image.starts_with(prefix));
    if (digits.is_some() || is_id) && scope.is_said() {
        let message = format!(
            "`{image}` is one image for all projects, not a name of one; leave --project and \
             --global out, or give the name"
        );
        return Err(CliError::Refused { message, code: "INVALID_REQUEST".to_owned() });
    }
    Ok(match digits {
        Some(digits) => json!({"digest": digits}),
        None => scope.body(json!({"name": image})),
    })
}

async fn list(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: AdminImageList = client.call(Method::GET, "/tarn/v1/images", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let registered = list.registered.iter().map(registered_row);
    let rows: Vec<_> = registered.chain(list.images.iter().map(row)).collect();
    Ok(table(["IMAGE", "NAMES", "SIZE", "STATE", "SANDBOXES", "USED", "FROM"], &rows))
}

fn row(image: &AdminImage) -> [String; 7] {
    let names = image.names.iter().map(|name| match &name.project_name {
        Some(project) => format!("{} ({project})", name.name),
        None => format!("{} (all)", name.name),
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let (state, used) = match &image.pulling {
        None => ("here".to_owned(), time(image.used_at)),
        Some(pull) => {
            let percent = pull.bytes_done.saturating_mul(100).checked_div(pull.bytes);
            let percent = percent.unwrap_or(0);
            let layers = format!("{}/{} layers", pull.layers_done, pull.layers);
            (format!("pulling, {percent} %, {layers}"), "-".to_owned())
        }
    };
    [
        image.digest.chars().take("sha256:".len() + 12).collect(),
        if names.is_empty() { "-".to_owned() } else { names },
        format!("{} MB", image.size_bytes.div_ceil(1_000_000)),
        state,
        image.sandboxes.to_string(),
        used,
        image.origin.split('@').next().unwrap_or_default().to_owned(),
    ]
}

fn registered_row(image: &AdminRegisteredImage) -> [String; 7] {
    let AdminRegisteredImage { id, name, project_name, snapshot_id, .. } = image;
    let all = if image.global { ", all" } else { "" };
    [
        id.clone(),
        format!("{name} ({project_name}{all})"),
        format!("{} MB", image.size_bytes.div_ceil(1_000_000)),
        "registered".to_owned(),
        image.sandboxes.to_string(),
        time(image.updated_at),
        snapshot_id.clone(),
    ]
}

async fn list_logins(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let path = "/tarn/v1/registry-logins";
    let list: AdminRegistryLoginList = client.call(Method::GET, path, None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let row = |login: AdminRegistryLogin| {
        [login.registry, login.username, login.project_name, time(login.updated_at)]
    };
    let rows: Vec<_> = list.logins.into_iter().map(row).collect();
    Ok(table(["REGISTRY", "USER", "PROJECT", "SET"], &rows))
}

// === impl ScopeOptions ===

impl ScopeOptions {
    /// Adds to a body whose the name is.
    fn body(&self, mut body: Value) -> Value {
        if self.global {
            body["global"] = Value::Bool(true);
        } else if let Some(project) = &self.project {
            body["project"] = Value::String(project.clone());
        }
        body
    }

    /// Says whether the command line has either option.
    fn is_said(&self) -> bool {
        self.global || self.project.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_somebodys() {
        let scope = |project: Option<&str>, global| {
            let project = project.map(str::to_owned);
            ScopeOptions { project, global }
        };
        let (unsaid, team, global) =
            (scope(None, false), scope(Some("team"), false), scope(None, true));
        for (image, scope, body) in [
            ("app", &unsaid, json!({"name": "app"})),
            ("app", &team, json!({"name": "app", "project": "team"})),
            ("app", &global, json!({"name": "app", "global": true})),
            ("sha256:4f2a", &unsaid, json!({"digest": "4f2a"})),
            ("image_0123456789abcdef", &unsaid, json!({"name": "image_0123456789abcdef"})),
        ] {
            assert_eq!(removal(image, scope).expect(image), body, "{image}");
        }
        for image in ["sha256:4f2a", "sha512:4f2a", "image_0123456789abcdef", "sandbox_template_1"]
        {
            for scope in [&team, &global] {
                let refused = removal(image, scope).expect_err(image);
                assert!(refused.to_string().contains("leave --project"), "{refused}");
                assert_eq!(refused.exit_code(), 1);
            }
        }
    }
}
