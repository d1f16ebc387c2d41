// Registered images through the npm package. Prints one JSON object that the test reads.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { CloudClient, Sandbox } = await import(pathToFileURL(require.resolve("tensorlake")).href);
const [name, organizationId, projectId] = process.argv.slice(2);
const client = new CloudClient({ organizationId, projectId });
const seen = {};

seen.found = await client.findSandboxImageByName(name);
seen.listed = (await client.listSandboxImages()).map((one) => one.name);
const box = await Sandbox.create({ image: name, memoryMb: 256, cpus: 0.25 });
seen.ran = (await box.run("cat", { args: ["/etc/made-here"] })).stdout.trim();
await box.terminate();
await client.deleteSandboxImage(name);
seen.after = await client.findSandboxImageByName(name);
console.log(JSON.stringify(seen));
