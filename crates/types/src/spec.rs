//! What a create request asks for, after every field was validated.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    BootImage, EgressPolicy, Resources, Restore, SandboxName, SecretName, TemplateId, UnixMillis,
};

/// Says why a list of ports cannot be exposed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortError {
    /// The number is no TCP port.
    #[error("{0} is not a port; ports are 1 to 65535")]
    OutOfRange(i64),
    /// 9501 is the daemon's.
    #[error("port 9501 is the sandbox daemon's and cannot be exposed")]
    Daemon,
}

/// User ports that the ingress may route to: sorted, without duplicates, never 9501.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExposedPorts(Vec<u16>);

/// Who may reach a sandbox's user ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortAccess {
    /// The ports routed; `None` (never set) and an empty list both route only the daemon.
    pub exposed: Option<ExposedPorts>,
    /// Whether exposed user ports answer without credentials.
    pub unauthenticated: bool,
}

/// A whole, valid request for a sandbox: what was *asked*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Makes the sandbox a named one.
    pub name: Option<SandboxName>,
    /// The image as asked, default filled in.
    pub image: BootImage,
    /// The shape.
    pub resources: Resources,
    /// The limit in seconds; 0 = unlimited (spec 01 §7).
    pub timeout_secs: u64,
    /// Command run at start, replacing the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The policy as set; `None` = never set, which means open.
    pub network: Option<EgressPolicy>,
    /// Who may reach user ports.
    pub ports: PortAccess,
    /// Whether ingress traffic wakes a suspended sandbox.
    pub auto_resume: bool,
    /// After how many seconds pending the sandbox is given up; `None` = never.
    pub max_pending_secs: Option<u64>,
    /// What it is restored from; `None` = made from its image alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// The secrets that its processes get. On a restore from memory: those that it was made with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_names: Vec<SecretName>,
    /// The registered image that the request named by its id, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<TemplateId>,
}

/// What a node needs to start a sandbox: the part of the spec that concerns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The image to boot.
    pub image: BootImage,
    /// The shape.
    pub resources: Resources,
    /// Command run at start, replacing the image's.
    pub entrypoint: Option<Vec<String>>,
    /// What the sandbox may reach.
    pub egress: EgressPolicy,
    /// Whether the sandbox has a name (its clock is an idle clock then).
    pub named: bool,
    /// The limit in seconds; 0 = unlimited.
    pub timeout_secs: u64,
    /// What it is restored from; `None` = made from its image alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// When it was claimed from its pool: its clock begins then, and suspends it (spec 01 §7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<UnixMillis>,
    /// The secrets that its processes get; the values are asked for when it boots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_names: Vec<SecretName>,
}

// === impl ExposedPorts ===

impl ExposedPorts {
    /// Sorts, removes duplicates and checks each port.
    ///
    /// # Errors
    /// Fails for a number outside 1..=65535 and for 9501.
    pub fn parse(ports: impl IntoIterator<Item = i64>) -> Result<Self, PortError> {
        let mut parsed = Vec::new();
        for port in ports {
            let Ok(port) = u16::try_from(port) else { return Err(PortError::OutOfRange(port)) };
            match port {
                0 => return Err(PortError::OutOfRange(0)),
                9501 => return Err(PortError::Daemon),
                port => parsed.push(port),
            }
        }
        parsed.sort_unstable();
        parsed.dedup();
        Ok(Self(parsed))
    }

    /// Returns the ports, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

// === impl PortAccess ===

impl PortAccess {
    /// Says whether a user port is routed.
    #[must_use]
    pub fn exposes(&self, port: u16) -> bool {
        self.exposed.as_ref().is_some_and(|ports| ports.0.binary_search(&port).is_ok())
    }
}

// === impl SandboxSpec ===

impl SandboxSpec {
    /// Returns the policy in force.
    #[must_use]
    pub fn egress(&self) -> EgressPolicy {
        self.network.clone().unwrap_or_default()
    }

    /// Returns the part a node needs.
    #[must_use]
    pub fn launch(&self) -> Launch {
        Launch {
            image: self.image.clone(),
            resources: self.resources,
            entrypoint: self.entrypoint.clone(),
            egress: self.egress(),
            named: self.name.is_some(),
            timeout_secs: self.timeout_secs,
            restore: self.restore.clone(),
            claimed_at: None,
            secret_names: self.secret_names.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_sorted_and_checked() {
        let ports = ExposedPorts::parse([80, 22, 80]).expect("good ports");
        assert_eq!(ports.as_slice(), [22, 80]);
        assert_eq!(ExposedPorts::parse([9501]), Err(PortError::Daemon));
        for bad in [0, -1, 65536] {
            assert_eq!(ExposedPorts::parse([bad]), Err(PortError::OutOfRange(bad)));
        }
        let access = PortAccess { exposed: Some(ports), unauthenticated: false };
        assert!(access.exposes(22) && !access.exposes(23));
        assert!(!PortAccess::default().exposes(22));
    }
}
