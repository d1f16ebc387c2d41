// Pools through the npm package, as a user has them. Prints one JSON object that the test reads.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox, SandboxClient } = await import(pathToFileURL(require.resolve("tensorlake")).href);
const client = new SandboxClient({}, true);
const seen = {};
const options = { image: "tensorlake/ubuntu-minimal", memoryMb: 256, warmContainers: 1, maxContainers: 2, timeoutSecs: 300 };

async function failure(promise) {
  try {
    await promise;
    return "none";
  } catch (error) {
    return error.constructor.name;
  }
}

async function until(what, holds) {
  const end = Date.now() + 60_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const { poolId } = await client.createPool(options);
const containers = async (state) => (await client.getPool(poolId)).containers.filter((one) => one.state === state);
await until("one waits", async () => (await containers("Idle")).length === 1);
const [idle] = await containers("Idle");
seen.idle = [typeof idle.id, typeof idle.executorId, idle.sandboxId ?? null];

const box = await Sandbox.create({ poolId });
seen.ran = (await box.run("echo", { args: ["hello"] })).stdout.trim();
await until("another waits", async () => (await containers("Idle")).length === 1);
const [running] = await containers("Running");
seen.claimed = [running.id === idle.id, running.sandboxId === box.sandboxId];
seen.info = [(await client.get(box.sandboxId)).poolId === poolId];
seen.list = (await client.listPools()).map((pool) => [pool.poolId === poolId, pool.image, pool.resources.memoryMb, pool.resources.ephemeralDiskMb]);
const updated = await client.updatePool(poolId, { ...options, warmContainers: 0, timeoutSecs: 200 });
seen.updated = [updated.poolId === poolId, updated.warmContainers, updated.maxContainers, updated.timeoutSecs];
await until("none waits", async () => (await containers("Idle")).length === 0);
const claimed = await client.claim(poolId);
seen.cold = claimed.status;
seen.inUse = await failure(client.deletePool(poolId));
await client.delete(claimed.sandboxId);
await box.terminate();
await client.deletePool(poolId);
seen.gone = await failure(client.getPool(poolId));
console.log(JSON.stringify(seen));
