// What a program with the npm package does, over https. Prints one JSON object that the test reads.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox } = await import(pathToFileURL(require.resolve("tensorlake")).href);

const seen = {};
const box = await Sandbox.create({ timeoutSecs: 300 });
try {
  const ran = await box.run("sh", { args: ["-c", "echo hello; exit 3"] });
  seen.run = [ran.exitCode, ran.stdout.trim()];
  const content = new Uint8Array(1_000_000).fill(120);
  await box.writeFile("/tmp/a file", content);
  const back = await box.readFile("/tmp/a file");
  seen.file = Buffer.compare(Buffer.from(back.value ?? back), Buffer.from(content)) === 0;
  let text = "";
  const pty = await box.createPty({
    command: "sh",
    args: ["-c", "read line; echo a$((40+2)); exit 7"],
    onData: (data) => (text += Buffer.from(data).toString()),
  });
  await pty.sendInput("\n");
  seen.pty = [await pty.wait(), text.includes("a42")];
} finally {
  await box.terminate();
}
console.log(JSON.stringify(seen));
