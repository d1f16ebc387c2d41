// The main path of the npm package, as a user writes it. Prints one JSON object that the test reads.
// ES modules ignore NODE_PATH, so the package is resolved from where it was installed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox, SandboxClient } = await import(pathToFileURL(require.resolve("tensorlake")).href);

const seen = {};
const name = `npm-${process.pid}-${Date.now().toString(36)}`;

async function failure(promise) {
  try {
    await promise;
    return { name: "none" };
  } catch (error) {
    return { name: error.constructor.name, status: error.statusCode, text: String(error.message) };
  }
}

async function collect(events) {
  const lines = [];
  for await (const event of events) lines.push(event.line);
  return lines;
}

const box = await Sandbox.create({ name, timeoutSecs: 300 });
seen.id = box.sandboxId;

const ran = await box.run("sh", {
  args: ["-c", "echo out $A; echo err >&2; pwd; id -un; exit 3"],
  env: { A: "1" },
  workingDir: "/workspace",
});
seen.run = [ran.exitCode, ran.stdout, ran.stderr];
seen.root = (await box.run("id", { args: ["-un"], user: "root" })).stdout;
seen.timeout = (await box.run("sleep", { args: ["60"], timeout: 0.5 })).exitCode;

const content = new Uint8Array(1_000_000).fill(120);
await box.writeFile("/tmp/a b.txt", content);
const back = await box.readFile("/tmp/a b.txt");
seen.file = (back.value ?? back).length;
seen.listing = (await box.listDirectory("/tmp")).entries.map((entry) => [entry.name, entry.isDir, entry.size]);
await box.deleteFile("/tmp/a b.txt");
seen.missing = await failure(box.readFile("/tmp/a b.txt"));

const cat = await box.startProcess("cat", { stdinMode: "pipe" });
await box.writeStdin(cat.pid, new TextEncoder().encode("one\ntwo\n"));
await box.closeStdin(cat.pid);
seen.follow = await collect(box.followStdout(cat.pid));
seen.process = (await box.getProcess(cat.pid)).exitCode;
const sleeper = await box.startProcess("sleep", { args: ["600"] });
await box.sendSignal(sleeper.pid, 15);
seen.listed = (await box.listProcesses()).map((process) => process.pid).includes(sleeper.pid);
await box.killProcess(sleeper.pid);

const info = await box.info();
seen.info = [info.status, info.name === name, info.resources.cpus, info.resources.memoryMb];
seen.health = (await box.health()).healthy;
seen.taken = await failure(Sandbox.create({ name }));
const twin = await Sandbox.connect({ sandboxId: name });
seen.byName = (await twin.run("echo", { args: ["twin"] })).stdout;
const ports = await box.update({ exposedPorts: [8080], allowUnauthenticatedAccess: true });
seen.ports = [ports.exposedPorts, ports.allowUnauthenticatedAccess];
seen.inList = (await Sandbox.list()).map((item) => item.sandboxId).includes(box.sandboxId);

await box.terminate();
const client = new SandboxClient({}, true);
seen.after = (await client.get(box.sandboxId)).status;
seen.gone = await failure(client.get(name));
console.log(JSON.stringify(seen));
