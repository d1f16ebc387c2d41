// Terminals and tunnels of the npm package. Prints one JSON object that the test reads.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import net from "node:net";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox } = await import(pathToFileURL(require.resolve("tensorlake")).href);

const seen = {};
const box = await Sandbox.create({ timeoutSecs: 300 });
const decoder = new TextDecoder();

async function open(script) {
  let text = "";
  let wake = () => {};
  const pty = await box.createPty({
    command: "bash",
    args: ["-c", script],
    cols: 90,
    rows: 30,
    onData: (data) => {
      text += decoder.decode(data, { stream: true });
      wake();
    },
  });
  const shows = async (wanted) => {
    while (!text.includes(wanted)) await new Promise((resolve) => (wake = resolve));
  };
  return { pty, shows, text: () => text };
}

console.error("first…");
const first = await open("stty size; read line; stty size; echo got $line; exit 4");
await first.shows("30 90\r\n");
await first.pty.resize(120, 40);
await first.pty.sendInput("hello\n");
seen.exit = await first.pty.wait();
seen.text = first.text();

console.error("second…");
const second = await open("echo one; read line; echo two $line");
await second.shows("one\r\n");
second.pty.disconnect();
let again = "";
const attached = await box.connectPty(second.pty.sessionId, second.pty.token, {
  onData: (data) => (again += decoder.decode(data)),
});
await attached.sendInput("x\n");
seen.attached = [await attached.wait(), again.includes("one\r\n"), again.includes("two x\r\n")];

console.error("third…");
const third = await open("echo on; sleep 600");
await third.shows("on\r\n");
const waiting = third.pty.wait().then(String, (error) => error.message);
await third.pty.kill();
seen.killed = await waiting;

const inside = `
import socket
s = socket.create_server(("127.0.0.1", 7020))
while True:
    c, _ = s.accept()
    try:
        c.sendall(b"RFB 003.008\\n")
        d = 0
        while d < 200000:
            d += len(c.recv(65536)) or 200000
        c.sendall(b"%d " % d + b"x" * 300000)
    except OSError: pass
    c.close()
`;
console.error("server…");
await box.startProcess("python3", { args: ["-c", inside] });
while ((await box.run("bash", { args: ["-c", "exec 3<>/dev/tcp/127.0.0.1/7020"] })).exitCode !== 0);

console.error("tunnel…");
const tunnel = await box.createTunnel(7020, { localPort: 0 });
function converse() {
  return new Promise((resolve, reject) => {
    const chunks = [];
    const socket = net.connect({ port: tunnel.address().port, host: "127.0.0.1" });
    // What the client loses it waits for in vain.
    const patience = setTimeout(() => (socket.destroy(), resolve(null)), 5_000);
    socket.once("data", () => socket.write(Buffer.alloc(200000)));
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("end", () => (clearTimeout(patience), resolve(Buffer.concat(chunks).toString())));
    socket.on("error", reject);
  });
}
// Twenty times, as what is lost is lost only sometimes.
const answers = [];
for (let round = 0; round < 20; round++) answers.push(await converse());
seen.lost = answers.filter((text) => text === null).length;
seen.tunnel = [...new Set(answers.filter(Boolean).map((text) => `${text.slice(0, 19)} ${text.length}`))];
await tunnel.close();
await box.terminate();
console.log(JSON.stringify(seen));
process.exit(0);
