//! `POST P/sandbox-pools`, `PUT P/sandbox-pools/{id}` and claims (spec 03).

use tarn_types::{EgressPolicy, ImageName};
use utoipa::ToSchema;

use super::{
    NetworkChange, Parsed,
    create::{ResourcesRequest, entrypoint, image, network, refuse_file_systems},
    fields::{Fields, parse_body},
};
use crate::{Refusal, response::NetworkConfig};

/// All that a pool shall be. `null` equals absent, but in `network` of a replacement.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = SandboxPoolRequest)]
pub struct SandboxPool {
    /// The image that its containers boot.
    #[schema(value_type = String, example = "tensorlake/ubuntu-minimal")]
    pub image: ImageName,
    /// The shape of its containers.
    #[schema(value_type = Option<ResourcesRequest>)]
    pub resources: ResourcesRequest,
    /// The time limit of a claimed sandbox in seconds, from its claim on; 0 and absent = the
    /// configured maximum.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_807_u64)]
    pub timeout_secs: Option<u64>,
    /// Command run at start, replacing the image's ENTRYPOINT and CMD.
    pub entrypoint: Option<Vec<String>>,
    /// How many containers there may be, claimed ones included; absent = any number.
    #[schema(minimum = 1)]
    pub max_containers: Option<u32>,
    /// How many containers wait to be claimed; absent = none.
    #[schema(minimum = 0)]
    pub warm_containers: Option<u32>,
    /// What its containers may reach. In a replacement absent keeps what the pool has, and `null`
    /// clears it.
    #[schema(value_type = Option<NetworkConfig>)]
    pub network: NetworkChange,
}

/// A claim of a sandbox; an empty body is the usual one.
#[derive(Debug, Clone, PartialEq, Eq, Default, ToSchema)]
#[schema(as = ClaimSandboxRequest)]
pub struct ClaimSandbox {}

// === impl SandboxPool ===

impl SandboxPool {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let mut ignored = Vec::new();
        let Some(image) = image(&mut fields)? else {
            let reason = "is missing; name the image that the pool's containers boot";
            return Err(Refusal::invalid("image", reason));
        };
        let value = Self {
            image,
            resources: ResourcesRequest::take(&mut fields, &mut ignored)?.unwrap_or_default(),
            timeout_secs: fields.unsigned("timeout_secs")?,
            entrypoint: entrypoint(&mut fields)?.filter(|words| !words.is_empty()),
            max_containers: count(&mut fields, "max_containers")?,
            warm_containers: count(&mut fields, "warm_containers")?,
            network: network_change(&mut fields)?,
        };
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value, ignored })
    }
}

// === impl ClaimSandbox ===

impl ClaimSandbox {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Refuses file systems, which this build has not.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        refuse_file_systems(&mut fields)?;
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self {}, ignored })
    }
}

fn count(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<u32>, Refusal> {
    let Some(number) = fields.unsigned(key)? else { return Ok(None) };
    u32::try_from(number).map(Some).map_err(|_huge| {
        let reason = format!("{number} is outside the limit; at most {}", u32::MAX);
        Refusal::limit(&fields.path_of(key), reason)
    })
}

/// Takes the field `network`, in which `null` is not absent.
pub(super) fn network_change(fields: &mut Fields<'_>) -> Result<NetworkChange, Refusal> {
    let policy: Option<EgressPolicy> = network(fields)?;
    Ok(match policy {
        Some(policy) => NetworkChange::Replace(policy),
        None if fields.is_null("network") => NetworkChange::Clear,
        None => NetworkChange::Keep,
    })
}

#[cfg(test)]
mod tests {
    use tarn_types::{ByteSize, MilliCpu};

    use super::*;
    use crate::ErrorCode;

    fn parse(body: &str) -> Result<SandboxPool, (ErrorCode, String)> {
        SandboxPool::parse(body.as_bytes())
            .map(|parsed| parsed.value)
            .map_err(|refusal| (refusal.code(), refusal.to_string()))
    }

    #[test]
    fn the_bodies_of_the_clients_are_read() {
        // What Python 0.5.163 sends, and what 0.5.113 and TS send.
        for disk in ["disk_mb", "ephemeral_disk_mb"] {
            let body = format!(
                r#"{{"image":"tensorlake/ubuntu-minimal",
                    "resources":{{"cpus":1.0,"memory_mb":1024,"{disk}":2048}},"timeout_secs":0,
                    "entrypoint":["sleep","9"],"max_containers":5,"warm_containers":2,
                    "network":{{"allow_internet_access":false,"allow_out":[],"deny_out":[]}}}}"#
            );
            let pool = parse(&body).expect("the SDK's body");
            assert_eq!(pool.resources.cpus, Some(MilliCpu::from_milli(1000)));
            assert_eq!(pool.resources.disk_mb, Some(ByteSize::from_mib(2048)), "{disk}");
            assert_eq!((pool.max_containers, pool.warm_containers), (Some(5), Some(2)));
            assert_eq!(pool.network, NetworkChange::Replace(EgressPolicy::CLOSED));
        }
        let least = parse(r#"{"image":"a","max_containers":null}"#).expect("an image is enough");
        assert_eq!((least.max_containers, least.warm_containers), (None, None));
        assert_eq!((least.timeout_secs, least.network), (None, NetworkChange::Keep));
        let cleared = parse(r#"{"image":"a","network":null,"entrypoint":[]}"#).expect("null");
        assert_eq!((cleared.network, cleared.entrypoint), (NetworkChange::Clear, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("", ErrorCode::InvalidRequest, "image: is missing"),
            ("[]", ErrorCode::InvalidRequest, "body: must be an object"),
            (r#"{"image":7}"#, ErrorCode::InvalidRequest, "image: must be a string"),
            (r#"{"image":"a","warm_containers":-1}"#, ErrorCode::InvalidRequest, "warm_containers"),
            (r#"{"image":"a","max_containers":2.0}"#, ErrorCode::InvalidRequest, "max_containers"),
            (
                r#"{"image":"a","max_containers":4294967296}"#,
                ErrorCode::LimitExceeded,
                "max_containers: 4294967296 is outside the limit",
            ),
            (
                r#"{"image":"a","resources":{"disk_mb":1,"ephemeral_disk_mb":2}}"#,
                ErrorCode::InvalidRequest,
                "resources.disk_mb",
            ),
            (r#"{"image":"a","timeout_secs":-3}"#, ErrorCode::InvalidRequest, "timeout_secs"),
            (
                r#"{"image":"a","network":{"allow_in":[]}}"#,
                ErrorCode::InvalidRequest,
                "network.allow_in: unknown key",
            ),
        ];
        for (body, code, text) in table {
            let (got, said) = parse(body).expect_err(body);
            assert!(got == code && said.starts_with(text), "{body}: {got} {said}");
        }
    }

    #[test]
    fn a_claim_may_have_no_file_systems() {
        for body in ["", "{}", r#"{"file_systems":[]}"#, r#"{"file_systems":null}"#] {
            assert!(ClaimSandbox::parse(body.as_bytes()).is_ok(), "{body}");
        }
        let body = br#"{"file_systems":[{"mount_path":"/data"}]}"#;
        let refused = ClaimSandbox::parse(body).expect_err("not built");
        assert_eq!(refused.code(), ErrorCode::NotSupported);
    }
}
