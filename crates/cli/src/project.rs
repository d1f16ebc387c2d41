//! The commands about projects and what they may have.

use clap::Subcommand;
use http::Method;
use serde_json::json;
use tarn_api::response::{AdminProject, AdminProjectList};

use crate::{
    CliError, ListOptions,
    client::AdminClient,
    command::pretty,
    table::{table, time},
};

/// What can be done with projects.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ProjectCommand {
    /// List projects, how many sandboxes each has that are not suspended, and how many it may have
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Set how many sandboxes that are not suspended a project may have; what is there stays
    Quota {
        /// The project's name or id
        project: String,
        /// A number, `unlimited`, or `default` (`quota.sandboxes` of tarn.toml)
        #[arg(long, value_name = "N", value_parser = quota)]
        sandboxes: Quota,
    },
}

/// What a quota is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// So many.
    Of(u32),
    /// Any number.
    Unlimited,
    /// What the configuration says.
    Default,
}

pub(crate) async fn run(client: &AdminClient, command: ProjectCommand) -> Result<String, CliError> {
    match command {
        ProjectCommand::List(options) => list(client, options).await,
        ProjectCommand::Quota { project, sandboxes } => {
            // On the wire 0 is any number.
            let sandboxes = match sandboxes {
                Quota::Of(number) => Some(number),
                Quota::Unlimited => Some(0),
                Quota::Default => None,
            };
            let body = json!({"project": project, "sandboxes": sandboxes});
            let set: AdminProject =
                client.call(Method::PUT, "/tarn/v1/quotas", Some(&body)).await?;
            let note = match set.quota {
                most if most > 0 && set.sandboxes > u64::from(most) => {
                    "; what it has more runs on, and nothing new begins until enough have ended"
                }
                _ => "",
            };
            Ok(format!("{}: {} sandboxes of {}{note}\n", set.name, set.sandboxes, shown(&set)))
        }
    }
}

async fn list(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: AdminProjectList = client.call(Method::GET, "/tarn/v1/projects", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .projects
        .into_iter()
        .map(|project| {
            let (quota, created) = (shown(&project), time(project.created_at));
            [project.id, project.name, project.sandboxes.to_string(), quota, created]
        })
        .collect();
    Ok(table(["ID", "NAME", "SANDBOXES", "QUOTA", "CREATED"], &rows))
}

fn shown(project: &AdminProject) -> String {
    let quota = match project.quota {
        0 => "unlimited".to_owned(),
        most => most.to_string(),
    };
    if project.is_default { format!("{quota} (default)") } else { quota }
}

fn quota(text: &str) -> Result<Quota, String> {
    match text {
        "unlimited" => Ok(Quota::Unlimited),
        "default" => Ok(Quota::Default),
        number => match number.parse() {
            // Who types 0 means none, and would get any number.
            Ok(0) => {
                Err("0 is no quota; revoke the project's keys instead, or say `unlimited`".into())
            }
            Ok(number) => Ok(Quota::Of(number)),
            Err(_) => Err("a number of at least 1, `unlimited` or `default`".into()),
        },
    }
}
