"""A certificate by ACME, from a real authority: names proved by an answer and by a record, renewed."""

import http.client
import json
import socket
import ssl

import pytest
from harness import acme, env
from harness.wait import until

SECONDS = 10


@pytest.fixture
def places():
    """The ports of API and ingress: the authority comes to the first one, and clients are told both."""
    return acme.ports(6)[-2:]


@pytest.fixture
def authority(places):
    made = acme.Authority(tls_port=places[0])
    yield made
    made.close()


def shown(port: int, name: str, context: ssl.SSLContext):
    """The serial number of the certificate that is shown for a name; none where it is not trusted."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            with context.wrap_socket(plain, server_hostname=name) as tls:
                return tls.getpeercert()["serialNumber"]
    except ssl.SSLCertVerificationError:
        return None


class Kept(http.client.HTTPSConnection):
    """A connection by a name, which is not opened again."""

    auto_open = 0

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    def asked(self) -> int:
        self.request("GET", "/healthz")
        answer = self.getresponse()
        answer.read()
        return answer.status


@pytest.fixture
def server(new_server, authority, places):
    """One that is not started, with an account that the authority knows."""
    api, ingress = places
    key = authority.home / "account.key"
    key.write_text(acme.KEY)
    made = new_server(start=False, runtime="sim", config={"tls": {"mode": "acme"}})
    made.configure("api", listen=f"127.0.0.1:{api}", public_url=f"https://api.box.test:{api}")
    made.configure("ingress", listen=f"127.0.0.1:{ingress}")
    account = {"eab_key_id": acme.KEY_ID, "eab_key_file": str(key), "accept_terms": True}
    account |= {"directory": authority.directory, "ca_file": str(authority.ca)}
    made.configure("tls.acme", profile="ordinary", **account)
    return made


def state(server) -> dict:
    return json.loads((server.data / "acme/state.json").read_text())


def test_from_an_answer_to_a_wildcard_and_its_renewal(server, authority, places):
    api, ingress = places
    trusted, anything = authority.context(), ssl._create_unverified_context()
    server.allow("the certificate has expired")

    # Names alone: the server itself answers, on the port of the API.
    server.start()
    until(lambda: shown(api, "api.box.test", trusted), 30, "a certificate by TLS-ALPN-01")
    first = until(lambda: shown(ingress, "sandbox.box.test", trusted), 5, "the same for the ingress")
    # The authority knows it by the name that we have read from it, and says when to renew it.
    until(lambda: state(server)["advice"], 15, "advice on renewal")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (server.data / "acme").iterdir()}
    assert modes == {"account.json": 0o600, "certificate.pem": 0o600, "state.json": 0o600}

    # A wildcard needs a record.
    server.stop()
    server.configure("ingress", public_url=f"https://box.test:{ingress}")
    refused = server.spawn()
    assert refused.wait(30) != 0
    assert "*.box.test" in server.tail() and "tls.acme.dns_command" in server.tail()

    # The program that sets it fails: that is said, and what was served is served.
    (authority.home / "locked").touch()
    server.configure("tls.acme", dns_command=[str(authority.hook())], profile="short")
    server.start()
    until(lambda: "the zone is locked" in server.log_text(), 30, "word of the failure")
    assert shown(api, "api.box.test", trusted) == first
    found = json.loads(server.command("doctor", "--config", str(server.home / "tarn.toml"), "--json").stdout)
    found = next(each for each in found if "certificate" in each["name"].lower())
    assert not found["ok"] and "the zone is locked" in found["detail"] and "valid until" in found["detail"]
    assert [call[0] for call in authority.calls()] == ["set", "unset"]

    # It works again: one certificate for all names, which lasts for seconds.
    (authority.home / "locked").unlink()
    (authority.home / "calls").unlink()
    server.restart()
    until(lambda: shown(ingress, "8000-any.box.test", trusted), 30, "a wildcard by DNS-01")
    assert shown(api, "api.box.test", trusted)
    kept = Kept("api.box.test", api, context=trusted)
    kept.connect()
    assert kept.asked() == 200
    before = kept.sock.getpeercert(binary_form=True)

    def renewed():
        with socket.create_connection(("127.0.0.1", ingress), 10) as plain:
            with anything.wrap_socket(plain, server_hostname="8000-any.box.test") as tls:
                return tls.getpeercert(binary_form=True) != before

    until(renewed, 30, "another certificate")
    assert kept.asked() == 200
    until(lambda: shown(ingress, "9000-any.box.test", trusted), 30, "it is trusted")

    def metric(name):
        kept.request("GET", "/metrics")
        return int(dict(line.rsplit(" ", 1) for line in kept.getresponse().read().decode().splitlines())[name])

    until(lambda: metric('tarn_acme_tries_total{outcome="issued"}') >= 2, 30, "both are counted")
    assert metric("tarn_tls_certificate_not_after_seconds") > 0

    # The wildcard is for the API, too, as authorities refuse an order with both; nothing stays in the zone.
    server.stop()
    called = {verb: {tuple(call[1:]) for call in authority.calls() if call[0] == verb} for verb in ("set", "unset")}
    assert {name for name, _text in called["set"]} == {"_acme-challenge.box.test"}
    assert called["set"] <= called["unset"]


@pytest.mark.skipif(not env.FULL, reason="with --full")
def test_renewal_when_the_authority_wants_it(server, authority):
    server.start()
    file = server.data / "acme/certificate.pem"
    until(lambda: file.exists() and state(server)["advice"], 30, "a certificate")
    first = file.read_text()
    certificate = first[first.index("-----BEGIN CERTIFICATE") :].split("-----END")[0] + "-----END CERTIFICATE-----\n"
    authority.advise(certificate, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z")
    server.stop()
    # It asks again some hours later; as if they were over.
    later = state(server)
    later["advice"]["ask_again"] = 0
    (server.data / "acme/state.json").write_text(json.dumps(later))
    server.start()
    until(lambda: file.read_text() != first, 30, "another certificate")
