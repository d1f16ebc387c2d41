// The desktop through the npm package: prints one JSON object and leaves pictures behind. It cannot
// read a picture: after the line `look` it goes on when the test answers `seen`, and else takes another.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(path.join(process.env.TARN_NODE_MODULES, "x.js"));
const { Sandbox } = await import(pathToFileURL(require.resolve("tensorlake")).href);

const [sandbox, pictures] = process.argv.slice(2);
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const seen = {};

function keep(name, png) {
  writeFileSync(path.join(pictures, `desktop-npm-${name}.png`), png);
}

// Looks until the text of a command in the sandbox is as wanted; the test's deadline ends it.
async function settled(command, args, wanted) {
  for (;;) {
    const { stdout } = await box.run(command, { args });
    if (wanted(stdout)) return stdout;
  }
}

const box = await Sandbox.connect({ sandboxId: sandbox });
const desktop = await box.connectDesktop({ password: "tensorlake", connectTimeout: 60 });
seen.size = [desktop.width, desktop.height];
keep("start", await desktop.screenshot(20));

await desktop.moveMouse(592, 776);
await desktop.click({ x: 592, y: 776 });
await settled("xdotool", ["getactivewindow", "getwindowname"], (text) => text.includes("Terminal"));
await desktop.typeText("touch from-npm; xdotool getmouselocation > mouse\n");
seen.mouse = await settled("cat", ["mouse"], (text) => text.includes("x:"));
do {
  keep("terminal", await desktop.screenshot(20));
  console.log("look");
} while ((await answers.next()).value !== "seen");
seen.file = (await box.run("ls", { args: ["from-npm"] })).exitCode;

seen.wrong = await box.connectDesktop({ password: "wrong" }).then(
  () => "connected",
  (error) => error.constructor.name,
);
await desktop.close();
console.log(JSON.stringify(seen));
process.stdin.destroy();
