// State through the npm package, as a user writes it. Prints one JSON object that the test reads.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox, SandboxClient } = await import(pathToFileURL(require.resolve("tensorlake")).href);

const seen = {};
const made = [];
const plain = (answer) => answer?.value ?? answer;

async function failure(promise) {
  try {
    await promise;
    return { name: "none" };
  } catch (error) {
    return { name: error.constructor.name, status: error.statusCode, text: String(error.message) };
  }
}

async function create(options) {
  const box = await Sandbox.create(options);
  made.push(box.sandboxId);
  return box;
}

const client = new SandboxClient({}, true);
try {
  const name = `npm-${process.pid}-${Date.now().toString(36)}`;
  const box = await create({ name, timeoutSecs: 0 });
  await box.run("sh", { args: ["-c", "echo file > /var/tmp/kept; echo memory > /dev/shm/kept"] });
  const sleeper = await box.startProcess("sleep", { args: ["4242"] });

  await box.suspend();
  seen.suspended = (await client.get(box.sandboxId)).status;
  await box.resume();
  seen.resumed = (await client.get(box.sandboxId)).status;
  seen.alive = (await box.getProcess(sleeper.pid)).status;
  seen.memory = (await box.run("cat", { args: ["/dev/shm/kept"] })).stdout;
  await box.suspend();
  seen.woken = (await box.run("cat", { args: ["/dev/shm/kept"] })).stdout;

  const files = plain(await box.checkpoint({ checkpointType: "filesystem", waitUntil: "completed" }));
  const memory = plain(await box.checkpoint({ checkpointType: "memory" }));
  seen.snapshots = [files, memory].map((s) => [s.status, s.snapshotType, s.sandboxId === box.sandboxId]);
  const listed = plain(await box.listSnapshots()).map((s) => s.snapshotId);
  seen.listed = [files, memory].every((s) => listed.includes(s.snapshotId));
  const all = plain(await Sandbox.listSnapshots()).map((s) => s.snapshotId);
  seen.all = [files, memory].every((s) => all.includes(s.snapshotId));

  const cold = await create({ snapshotId: files.snapshotId });
  seen.cold = (await cold.run("sh", { args: ["-c", "cat /var/tmp/kept; pgrep -fc '[s]leep 4242'"] })).stdout;
  const warm = await create({ snapshotId: memory.snapshotId });
  seen.warm = (await warm.run("sh", { args: ["-c", "cat /dev/shm/kept; pgrep -fc '[s]leep 4242'"] })).stdout;
  seen.override = await failure(create({ snapshotId: memory.snapshotId, cpus: 2 }));

  const copied = plain(await box.copy({ times: 2 }));
  made.push(...copied.sandboxes.map((copy) => copy.sandboxId));
  seen.copied = copied.sandboxes.map((copy) => copy.status);
  const twin = await Sandbox.connect({ sandboxId: copied.sandboxes[0].sandboxId });
  seen.twin = (await twin.run("cat", { args: ["/dev/shm/kept"] })).stdout;

  await Sandbox.deleteSnapshot(files.snapshotId);
  await Sandbox.deleteSnapshot(memory.snapshotId);
  seen.deleted = await failure(Sandbox.getSnapshot(files.snapshotId));
  const unnamed = await create({});
  seen.ephemeral = await failure(unnamed.suspend());
} finally {
  for (const id of made) await client.delete(id).catch(() => {});
}
console.log(JSON.stringify(seen));
