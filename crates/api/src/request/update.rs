//! `PATCH P/sandboxes/{sid}` (spec 01 §5).

use tarn_types::{EgressPolicy, ExposedPorts, SandboxName};
use utoipa::ToSchema;

use super::{
    Parsed,
    create::{ResourcesRequest, exposed_ports, name, unauthenticated_access},
    fields::{Fields, parse_body},
    pool::network_change,
};
use crate::{Refusal, response::NetworkConfig};

/// A change of a sandbox; absent fields stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, ToSchema)]
#[schema(as = UpdateSandboxRequest)]
pub struct UpdateSandbox {
    /// A new name; an unnamed sandbox becomes a named one by it.
    #[schema(value_type = Option<String>, nullable = false)]
    pub name: Option<SandboxName>,
    /// New exposed ports; an empty list clears.
    #[schema(value_type = Option<Vec<u16>>)]
    pub exposed_ports: Option<ExposedPorts>,
    /// Whether exposed user ports answer without credentials.
    pub allow_unauthenticated_access: Option<bool>,
    /// Whether ingress traffic wakes it.
    pub auto_resume: Option<bool>,
    /// A new policy; `null` clears it.
    #[schema(value_type = Option<NetworkConfig>)]
    pub network: NetworkChange,
    /// What a running sandbox shall have; a request of its own, and never with GPUs.
    #[schema(value_type = Option<ResourcesRequest>)]
    pub resources: ResourcesRequest,
}

/// What a change does to the policy: the one field where `null` is not absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkChange {
    /// The key was absent.
    #[default]
    Keep,
    /// The key was `null`.
    Clear,
    /// The key held a policy.
    Replace(EgressPolicy),
}

// === impl UpdateSandbox ===

impl UpdateSandbox {
    /// Reads a request's body; an empty one changes nothing.
    ///
    /// # Errors
    /// Names the first field that cannot be what it is, or whose feature is not built.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let mut ignored = Vec::new();
        if fields.is_null("name") {
            let reason = "a named sandbox cannot become unnamed again; leave the field out";
            return Err(Refusal::invalid("name", reason));
        }
        let mut value = Self {
            name: name(&mut fields)?,
            exposed_ports: exposed_ports(&mut fields)?,
            allow_unauthenticated_access: unauthenticated_access(&mut fields)?,
            auto_resume: fields.boolean("auto_resume")?,
            network: network_change(&mut fields)?,
            resources: ResourcesRequest::default(),
        };
        let resources = ResourcesRequest::take(&mut fields, &mut ignored)?;
        value.take_resize(resources)?;
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value, ignored })
    }

    fn take_resize(&mut self, resources: Option<ResourcesRequest>) -> Result<(), Refusal> {
        let Some(resources) = resources else { return Ok(()) };
        if *self != Self::default() {
            let reason = "a resize is a request of its own; send the other fields apart";
            return Err(Refusal::invalid("resources", reason));
        }
        if resources.gpus.is_some() {
            let reason = "a sandbox keeps the GPUs that it was made with; leave them out";
            return Err(Refusal::invalid("resources.gpus", reason));
        }
        self.resources = resources;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    fn parse(body: &str) -> Result<UpdateSandbox, (ErrorCode, String)> {
        UpdateSandbox::parse(body.as_bytes())
            .map(|parsed| parsed.value)
            .map_err(|refusal| (refusal.code(), refusal.to_string()))
    }

    #[test]
    fn null_keeps_everything_but_the_network_and_the_name() {
        let none = UpdateSandbox::default();
        for body in ["", "{}", r#"{"exposed_ports":null,"auto_resume":null,"resources":null}"#] {
            assert_eq!(parse(body), Ok(none.clone()), "{body}");
        }
        let cleared = parse(r#"{"network":null}"#).expect("null clears");
        assert_eq!(cleared.network, NetworkChange::Clear);
        let closed = parse(r#"{"network":{"allow_internet_access":false}}"#).expect("a policy");
        assert_eq!(closed.network, NetworkChange::Replace(EgressPolicy::CLOSED));
        let (code, _) = parse(r#"{"name":null}"#).expect_err("no way back");
        assert_eq!(code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn the_bodies_of_the_clients_are_read() {
        let ports = parse(r#"{"allow_unauthenticated_access":true,"exposed_ports":[80,22,80]}"#)
            .expect("the SDK's body");
        assert_eq!(ports.allow_unauthenticated_access, Some(true));
        assert_eq!(ports.exposed_ports.as_ref().map(ExposedPorts::as_slice), Some(&[22, 80][..]));
        let cleared = parse(r#"{"exposed_ports":[]}"#).expect("clears");
        assert_eq!(cleared.exposed_ports, Some(ExposedPorts::default()));
        let named = parse(r#"{"name":"box"}"#).expect("a rename");
        assert_eq!(named.name.map(|name| name.to_string()), Some("box".to_owned()));
        let sleeper = parse(r#"{"auto_resume":false}"#).expect("traffic no longer wakes it");
        assert_eq!(sleeper.auto_resume, Some(false));
    }

    #[test]
    fn a_resize_stands_alone() {
        let all = parse(r#"{"resources":{"cpus":2.0,"memory_mb":2048,"disk_mb":20480}}"#);
        let resources = all.expect("the SDK's body").resources;
        assert_eq!(resources.cpus.map(|cpu| cpu.milli()), Some(2000));
        assert_eq!(resources.memory_mb.map(|size| size.mib()), Some(2048));
        assert_eq!(resources.disk_mb.map(|size| size.mib()), Some(20_480));
        let table = [
            (r#"{"resources":{"gpus":[{"count":1,"model":"H100"}]}}"#, ErrorCode::InvalidRequest),
            (r#"{"resources":{"cpus":2},"name":"box"}"#, ErrorCode::InvalidRequest),
            (r#"{"resources":{"cpus":2},"network":null}"#, ErrorCode::InvalidRequest),
            (r#"{"resources":{"memory_mb":1.0}}"#, ErrorCode::InvalidRequest),
        ];
        for (body, expected) in table {
            assert_eq!(parse(body).expect_err(body).0, expected, "{body}");
        }
        assert_eq!(parse(r#"{"resources":{}}"#), Ok(UpdateSandbox::default()));
    }
}
