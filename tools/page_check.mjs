// The pages of `serve` in a real browser. In a folder with `npm i playwright-core`, with Chromium installed:
//     node PATH/tools/page_check.mjs http://127.0.0.1:8080 /usr/bin/chromium [FOLDER FOR PICTURES]
// The server runs with any model, the demo model for one. What a model might say of HTML is put in its place by the browser's own network.
import { createRequire } from "node:module";
import assert from "node:assert/strict";
const { chromium } = createRequire(process.cwd() + "/")("playwright-core");
const [base, executablePath, pictures] = process.argv.slice(2);

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext();
const page = await context.newPage();
const errors = [];
page.on("console", m => m.type() === "error" && errors.push(m.text() + " " + m.location().url));
page.on("pageerror", e => errors.push(String(e)));
const other = [];
page.on("request", r => r.url().startsWith(base) || r.url().startsWith("data:") || other.push(r.url()));
const step = name => console.log("ok:", name);
const picture = async name => pictures && page.screenshot({ path: `${pictures}/${name}.png` });
const send = async text => { await page.fill("#text", text); await page.press("#text", "Enter"); };
const done = () => page.waitForFunction(() => document.getElementById("stop").hidden, null, { timeout: 120000 });
const last = () => page.locator("article").last();

await page.goto(base + "/");
await page.waitForFunction(() => document.getElementById("model").options.length > 0);
assert.deepEqual(errors, []);
step("loads, and names the models");

// A chat streams: the text grows while the answer is on its way.
await page.fill("#tokens", "40");
await page.fill("#temperature", "0");
await send("Ownership in Rust means");
await page.waitForFunction(() => document.querySelectorAll("article").length === 2 && document.querySelectorAll("article")[1].querySelector("div").textContent.length > 0, null, { timeout: 60000 });
const early = (await last().locator("div").textContent()).length;
await done();
const whole = await last().locator("div").textContent();
assert.ok(whole.length > early, `${early} of ${whole.length} characters when it began`);
step("streams a chat");
await picture("chat");

// Stop: the answer ends early, and what came of it stays.
await page.fill("#tokens", "");
await send("Tell me everything about memory");
await page.waitForFunction(() => !document.getElementById("stop").hidden);
await page.waitForTimeout(150);
await page.click("#stop");
await done();
assert.equal(await page.locator("article.error").count(), 0);
step("stops");
let busy = true;
for (let i = 0; i < 50 && busy; i++) {
  busy = (await (await page.request.get(base + "/status.json")).json()).models.some(m => m.running > 0);
  await page.waitForTimeout(20);
}
assert.ok(!busy, "the server goes on with an answer that was stopped");
step("the server is free after a stop");

// What is kept: the conversation and the fields, over a reload.
const n = await page.locator("article").count();
await page.reload();
await page.waitForFunction(() => document.getElementById("model").options.length > 0);
assert.equal(await page.locator("article").count(), n);
step("keeps the conversation over a reload");

// Edit and retry.
await page.fill("#tokens", "8");
await last().getByRole("button", { name: "Retry" }).click();
await done();
assert.equal(await page.locator("article").count(), n);
await page.locator("article.user").last().getByRole("button", { name: "Edit" }).click();
assert.equal(await page.inputValue("#text"), "Tell me everything about memory");
step("edits and retries");

// HTML in a model's words is text, wherever it stands.
await page.click("#clear");
const evil = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</scr" + "ipt>\n\n# <b>head</b>\n\n**<i>bold</i>** `<u>code</u>`\n\n```html\n<svg onload=\"window.hacked=3\">\n```";
const sse = deltas => deltas.map(d => "data: " + JSON.stringify({ choices: [{ index: 0, delta: d }] }) + "\n\n").join("") + "data: [DONE]\n\n";
await page.route("**/v1/chat/completions", route => route.fulfill({
  contentType: "text/event-stream",
  body: sse([{ reasoning_content: "<em>think</em>" }, { content: evil.slice(0, 30) }, { content: evil.slice(30) },
    { tool_calls: [{ index: 0, function: { name: "<a>", arguments: "{\"x\": \"<b>\"}" } }] }]),
}));
await send("<b>me</b>");
await done();
await page.waitForTimeout(100);
assert.equal(await page.evaluate(() => window.hacked), undefined);
assert.equal(await page.locator("main img, main script, main svg, main b, main i, main em, main u, main a").count(), 0);
const shown = await last().textContent();
for (const part of ["<img src=x", "<script>", "<b>head</b>", "<i>bold</i>", "<u>code</u>", "<svg onload", "<em>think</em>", "<a>("]) assert.ok(shown.includes(part), part);
assert.ok((await page.locator("article.user").last().textContent()).includes("<b>me</b>"));
await page.reload();
await page.waitForTimeout(100);
assert.equal(await page.evaluate(() => window.hacked), undefined);
step("escapes HTML, after a reload too");
await picture("escaped");
await page.unroute("**/v1/chat/completions");
assert.deepEqual(errors, []);

// Errors: one that the server tells, one in the middle of a stream, and a server that is gone.
await page.click("#clear");
await page.fill("#temperature", "-3");
await send("wrong");
await page.waitForSelector("article.error");
assert.match(await page.locator("article.error").textContent(), /temperature/);
await page.fill("#temperature", "0");
await page.route("**/v1/chat/completions", route => route.fulfill({ contentType: "text/event-stream",
  body: "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"so far\"}}]}\n\ndata: {\"error\":{\"message\":\"it broke <b>\"}}\n\n" }));
await send("more");
await page.waitForFunction(() => document.querySelectorAll("article.error").length === 2);
assert.match(await page.locator("article.error").last().textContent(), /it broke <b>/);
await page.unroute("**/v1/chat/completions");
await page.route("**/v1/chat/completions", route => route.abort());
await send("gone");
await page.waitForFunction(() => document.querySelectorAll("article.error").length === 3);
await page.unroute("**/v1/chat/completions");
await send("again");
await done();
assert.ok((await last().locator("div").textContent()).length > 0 && !(await last().getAttribute("class")).includes("error"));
step("shows errors, and goes on behind them");
await picture("errors");
// The browser itself notes the two requests that failed on purpose, and nothing else.
const unexpected = errors.filter(e => !/Failed to load resource.*chat\/completions/.test(e));
assert.deepEqual(unexpected, []);

errors.length = 0;
await page.goto(base + "/status");
await page.waitForTimeout(2500);
assert.deepEqual(errors, []);
step("the status page runs");
await picture("status");
await page.emulateMedia({ colorScheme: "dark" });
await page.goto(base + "/");
await page.waitForTimeout(300);
await picture("dark");
assert.deepEqual(errors, []);
assert.deepEqual(other, [], "requests beside the server's");
step("no errors in the console, no requests to anywhere else");
await browser.close();
