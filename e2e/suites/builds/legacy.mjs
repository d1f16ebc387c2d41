// A build of the legacy family by the npm package: legacy.mjs build|import SOURCE NAME.
import path from "node:path";
import { pathToFileURL } from "node:url";

const modules = process.env.TARN_NODE_MODULES;
const file = path.join(modules, "tensorlake", "dist", "sandbox-image.js");
const { createSandboxImage, importSandboxImage } = await import(pathToFileURL(file));

const [verb, source, registeredName] = process.argv.slice(2);
const call = verb === "build" ? createSandboxImage : importSandboxImage;
const lines = [];
const emit = (event) => {
  if (event.type === "build_log") lines.push(event.message);
};
const options = { registeredName, cpus: 0.5, memoryMb: 512, diskMb: 1024, builderDiskMb: 1024 };
let said;
try {
  said = { image: await call(source, options, { emit }) };
} catch (failed) {
  said = { error: String(failed) };
}
console.log(JSON.stringify({ ...said, lines }));
