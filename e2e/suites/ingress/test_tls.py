"""Both ports over TLS: the local CA with the official clients, curl, WebSockets; files that change."""

import hashlib
import json
import os
import pathlib
import ssl
import subprocess
import urllib.parse
from http.client import HTTPSConnection

import pytest
from harness import browser, env, http
from harness.picture import Picture
from harness.wait import until
from suites.ingress import grpc_calls
from suites.ingress.test_ports import serve
from suites.terminal.ws import attach, terminal

SERVER = {"config": {"tls": {"mode": "local_ca"}}}
HERE = pathlib.Path(__file__).parent
# What `page.html` shows at its end, and its colour then.
SAID = ["over TLS", "and a WebSocket", "and back", "GET /asked?by=page, X-Forwarded-Proto: https"]
GREEN = (0x00, 0x66, 0x44)


@pytest.fixture(scope="module")
def web(server):
    """A sandbox with a server on a port."""
    made = server.create(exposed_ports=[8000, grpc_calls.PORT])
    serve(server, made, "0.0.0.0", 8000)
    return made


@pytest.fixture(scope="module")
def application(server):
    """The address of a page in a sandbox that anybody may open."""
    made = server.create(exposed_ports=[8000], allow_unauthenticated_access=True)
    serve(server, made, "0.0.0.0", 8000)
    page = (HERE / "page.html").read_bytes()
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/page.html", page).status == 204
    return f"https://8000-{made}.localhost:{server.ingress.rpartition(':')[2]}/page"


@pytest.fixture
def opened():
    """Starts the browser of the desktop image; what it trusts is said by who calls."""
    root = browser.tree()
    if root is None:
        pytest.skip("the desktop image of this distribution has another browser")
    return lambda ca_pem: browser.Browser(root, ca_pem, env.LOGS / "browser.log")


def client(server, *command, **variables):
    """Runs a client's program as a user does who trusts the CA by these variables."""
    variables |= {"TENSORLAKE_API_URL": server.api, "TENSORLAKE_API_KEY": server.key, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def test_the_python_sdk(server):
    """The older one: 0.5.163 trusts only the CAs that are built into it (docs/operations.md)."""
    ca = str(server.data / "ca.pem")
    run = client(server, os.environ["TARN_PY_OLD"], str(HERE / "tls_client.py"), SSL_CERT_FILE=ca)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {"run": [3, "hello"], "file": True, "pty": [7, True]}


def test_the_npm_package(server):
    ca = str(server.data / "ca.pem")
    trust = {"NODE_EXTRA_CA_CERTS": ca, "SSL_CERT_FILE": ca, "TARN_NODE_MODULES": env.NODE_MODULES}
    run = client(server, env.NODE, str(HERE / "tls_client.mjs"), **trust)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {"run": [3, "hello"], "file": True, "pty": [7, True]}


def test_who_does_not_trust_the_ca_gets_no_answer(server):
    for url in (server.api, server.ingress):
        with pytest.raises(ssl.SSLCertVerificationError):
            http.request(url + "/healthz", context=ssl.create_default_context())


def curl(server, url, *options):
    """The body, and the version of HTTP."""
    ca = str(server.data / "ca.pem")
    command = ["curl", "-sS", "--cacert", ca, "-H", f"Authorization: Bearer {server.key}", "-w", "\n%{http_version}"]
    run = subprocess.run([*command, *options, url], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    body, _, version = run.stdout.rpartition("\n")
    return body, version


def test_curl_by_the_name_of_a_port(server, web):
    port = urllib.parse.urlsplit(server.ingress).port
    name = f"8000-{web}.localhost"
    for options, version in [(["--http2"], "2"), (["--http1.1"], "1.1"), (["--http1.1", "--tls-max", "1.2"], "1.1")]:
        # Not every resolver knows what is below localhost.
        at = ["--resolve", f"{name}:{port}:127.0.0.1"]
        body, spoken = curl(server, f"https://{name}:{port}/a?b=c", *at, *options)
        seen = json.loads(body)
        assert (spoken, seen["path"]) == (version, "/a?b=c"), seen
        assert seen["headers"]["x-forwarded-proto"] == "https", seen


def test_curl_and_the_api(server):
    for options in ([], ["--http2"], ["--http1.1"]):
        body, version = curl(server, server.api + "/healthz", *options)
        assert (json.loads(body), version) == ({"status": "ok"}, "1.1")


def test_websockets(server, web):
    made = terminal(server, web, "stty -echo; echo ready; read line; echo got $line")
    with attach(server, web, made) as socket:
        socket.until("ready")
        socket.type("hello\n")
        socket.until("got hello")


def test_grpc(server, web):
    grpc_calls.serve(server, web)
    grpc_calls.check(server, web)


@pytest.mark.skipif(not env.FULL, reason="a browser takes notice of what else the host does: at full scale")
def test_a_browser_shows_a_page_and_its_websocket(server, application, opened):
    with opened((server.data / "ca.pem").read_text()) as page:
        while (title := load(page, application)) != "done":
            assert any(browser.NETWORK_CHANGED in failure for failure in page.failures), (title, page.failures)
        picture = Picture(page.screenshot())
        (env.LOGS / "browser-page.png").write_bytes(picture.png)
        assert page.value("[...document.querySelectorAll('li')].map(l => l.textContent).join('|')") == "|".join(SAID)
    # What a person sees: the page turns green when it is done.
    assert picture.share(lambda colour: colour == GREEN) > 0.7


def load(page, url) -> str:
    """Opens the page and returns what became of it."""
    page.failures.clear()
    if error := page.open(url):
        page.failures.append(error)
        return "failed"
    return page.wait("document.title != 'waiting' && document.title", "the page's end")


@pytest.mark.skipif(not env.FULL, reason="a browser takes notice of what else the host does: at full scale")
def test_a_browser_that_does_not_trust_the_ca_opens_nothing(application, opened):
    with opened(None) as page:
        while (error := page.open(application)) == browser.NETWORK_CHANGED:
            pass
        assert error == "net::ERR_CERT_AUTHORITY_INVALID"


def test_plain_http_is_told_to_use_https(server):
    for url in (server.api, server.ingress):
        reply = http.request(url.replace("https://", "http://") + "/healthz")
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST"), reply
        assert "https://" in reply.json()["error"]


def test_every_address_is_https(server, web):
    addresses = json.loads((server.data / "run/addresses.json").read_text())
    shown = server.info(web)
    told = [server.api, *addresses.values(), shown["sandbox_url"], shown["ingress_endpoint"]]
    assert all(url.startswith("https://") for url in told), told


def test_the_command_line(server):
    ca = server.data / "ca.pem"
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca.read_text())).hexdigest()
    shown = server.command("ca").stdout
    assert str(ca) in shown and fingerprint in shown.replace(":", "").lower(), shown
    assert server.command("ca", "--pem").stdout == ca.read_text()
    assert server.command("sandbox", "list", "--json").returncode == 0
    found = json.loads(server.command("doctor", "--json", "--config", str(server.home / "tarn.toml")).stdout)
    certificate = next(finding for finding in found if finding["name"] == "TLS certificate")
    assert certificate["ok"] and str(ca) in certificate["detail"], certificate
    assert (server.data / "ca.key").stat().st_mode & 0o777 == 0o600


def test_the_metrics(server):
    metrics = http.request(server.api + "/metrics", context=server.context).body.decode()
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("tarn_tls_"))
    assert int(lines['tarn_tls_handshakes_total{listener="api"}']) > 0
    assert 'tarn_tls_handshakes_failed_total{listener="ingress",reason="plain_http"}' in lines


def issue(directory, name):
    """Makes a certificate that vouches for itself, with openssl's command; its PEM."""
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"]
    subprocess.run([*command, "-days", "30", *subject, *files], check=True, capture_output=True, timeout=60)
    return (directory / f"{name}.pem").read_text()


def test_files(new_server, tmp_path):
    first, second = issue(tmp_path, "first"), issue(tmp_path, "second")
    served, key = tmp_path / "served.pem", tmp_path / "served.key"
    config = {"tls": {"mode": "files", "cert_file": str(served), "key_file": str(key)}}
    server = new_server("-files", start=False, runtime="sim", config=config)

    def refused():
        before = len(server.log_text())
        process = server.spawn()
        assert process.wait(60) != 0
        return server.log_text()[before:]

    assert str(served) in refused()
    os.replace(tmp_path / "first.pem", served)
    key.write_bytes((tmp_path / "second.key").read_bytes())
    assert "does not fit" in refused()
    os.replace(tmp_path / "first.key", key)
    server.start()
    address = urllib.parse.urlsplit(server.api)

    def shown():
        return ssl.get_server_certificate((address.hostname, address.port), timeout=30)

    assert ssl.PEM_cert_to_DER_cert(shown()) == ssl.PEM_cert_to_DER_cert(first)
    server.context = ssl.create_default_context(cafile=str(served))
    assert server.call("GET", "/sandboxes").status == 200
    # After its first request a connection may idle for minutes.
    open_one = HTTPSConnection(address.hostname, address.port, timeout=60, context=server.context)
    assert ask(open_one) == 200
    socket = open_one.sock
    os.replace(tmp_path / "second.pem", served)
    os.replace(tmp_path / "second.key", key)
    new = ssl.PEM_cert_to_DER_cert(second)
    until(lambda: ssl.PEM_cert_to_DER_cert(shown()) == new, timeout=60, what="the new certificate")
    assert (ask(open_one), open_one.sock) == (200, socket), "what is open goes on"
    open_one.close()


def ask(connection):
    """The status of a request on a connection that stays open."""
    connection.request("GET", "/healthz")
    reply = connection.getresponse()
    reply.read()
    return reply.status
