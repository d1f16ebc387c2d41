//! The tables of access and waiting.

use tarn_route_api::RouteEndpoint;
use tarn_types::{ExposedPorts, Generation, PortAccess, SandboxId};

use super::*;

fn project(seed: u8) -> ProjectId {
    ProjectId::from_random([seed; 16])
}

fn route(unauthenticated: bool) -> Route {
    let exposed = Some(ExposedPorts::parse([80]).expect("a port"));
    Route {
        id: SandboxId::from_random([1; 21]),
        project: project(1),
        generation: Generation::FIRST,
        ports: PortAccess { exposed, unauthenticated },
        status: SandboxStatus::Running,
        wakes: true,
        endpoint: None,
    }
}

#[test]
fn access_is_decided_as_the_table_says() {
    use IngressCode::{PortNotExposed, SandboxNotFound, Unauthenticated};
    let (owner, other) = (Caller::Project(project(1)), Caller::Project(project(2)));
    let table = [
        // public, caller, port, answer
        (false, &owner, 9501, None),
        (false, &other, 9501, Some(SandboxNotFound)),
        (true, &other, 9501, Some(SandboxNotFound)),
        (true, &Caller::Anonymous, 9501, Some(Unauthenticated)),
        (false, &owner, 80, None),
        (false, &owner, 81, Some(PortNotExposed)),
        (true, &owner, 81, Some(PortNotExposed)),
        (false, &other, 80, Some(SandboxNotFound)),
        (false, &other, 81, Some(SandboxNotFound)),
        (false, &Caller::Anonymous, 80, Some(Unauthenticated)),
        (false, &Caller::Anonymous, 81, Some(Unauthenticated)),
        (true, &Caller::Anonymous, 80, None),
        (true, &other, 80, None),
        (true, &Caller::Anonymous, 81, Some(PortNotExposed)),
    ];
    for (public, caller, port, expected) in table {
        let route = route(public);
        let address = Address { sandbox: SandboxRef::Id(route.id.clone()), port, host: None };
        let answer = check_access(&route, caller, &address).err().map(|error| error.code());
        assert_eq!(answer, expected, "{public} {caller:?} {port}");
    }
}

#[test]
fn statuses_forward_hold_or_refuse() {
    let table = [
        (SandboxStatus::Pending, Readiness::Hold),
        (SandboxStatus::Running, Readiness::Forward),
        (SandboxStatus::Snapshotting, Readiness::Forward),
        (SandboxStatus::Suspending, Readiness::Hold),
        (SandboxStatus::Suspended, Readiness::Wake),
        (SandboxStatus::Terminated, Readiness::NotRunning),
    ];
    let daemon = std::net::SocketAddr::from(([127, 0, 0, 1], 9501));
    let token = tarn_types::DaemonToken::from_random([7; 32]);
    let endpoint = Some(RouteEndpoint { daemon, token });
    for (status, expected) in table {
        let route = Route { status, endpoint: endpoint.clone(), ..route(false) };
        assert_eq!(readiness(&route), expected, "{status:?}");
    }
    assert_eq!(readiness(&route(false)), Readiness::Hold, "it runs, but nobody says where");
    let sleeper = Route { status: SandboxStatus::Suspended, wakes: false, ..route(false) };
    assert_eq!(readiness(&sleeper), Readiness::NotRunning);
}

#[test]
fn patience_is_the_budget_less_a_second() {
    let default = Duration::from_secs(60);
    let table: [(Option<&str>, Duration); 8] = [
        (None, default),
        (Some("300000"), Duration::from_secs(299)),
        (Some("2999"), Duration::from_millis(1999)),
        (Some("1000"), Duration::ZERO),
        (Some("0"), Duration::ZERO),
        (Some("-5"), default),
        (Some("soon"), default),
        (Some("18446744073709551615"), Duration::from_secs(3599)),
    ];
    for (budget, expected) in table {
        let value = budget.map(|text| HeaderValue::from_str(text).expect("a value"));
        assert_eq!(patience(value.as_ref(), default), expected, "{budget:?}");
    }
}

#[test]
fn credentials_are_read_by_their_scheme() {
    let table: [(&[&str], Option<Credential<'_>>); 8] = [
        (&[], Some(Credential::None)),
        (&["Bearer tl_x"], Some(Credential::Bearer("tl_x"))),
        (&["bearer  tl_x "], Some(Credential::Bearer("tl_x"))),
        (&["Bearer "], Some(Credential::Bearer(""))),
        (&["Bearer"], Some(Credential::Bearer(""))),
        (&["Basic YTpi"], Some(Credential::Foreign)),
        (&["Bearerx y"], Some(Credential::Foreign)),
        (&["Bearer a", "Bearer a"], None),
    ];
    for (values, expected) in table {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", HeaderValue::from_str(value).expect("a value"));
        }
        assert_eq!(Credential::read(&headers).ok(), expected, "{values:?}");
    }
}
