// Opens the console in Chromium as a new user would: key, first example, run. Prints what was seen as JSON.
import { chromium } from "playwright-core";

const [address, key, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage();
  const requested = [];
  const complaints = [];
  page.on("request", (request) => requested.push(request.url()));
  page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`${address}/graphql`);
  const notice = await page.locator(".notice").first().textContent();
  await page.fill("#key", key);
  await page.click("#run");
  await page.waitForFunction(() => document.querySelector("#result").textContent.trim().endsWith("}"));
  const first = JSON.parse(await page.textContent("#result"));
  await page.fill("#query", "{ viewer { tenant keyName } }");
  await page.fill("#variables", "");
  await page.press("#query", "Control+Enter");
  await page.waitForFunction(() => document.querySelector("#result").textContent.includes("keyName"));
  const second = JSON.parse(await page.textContent("#result"));
  const foreign = requested.filter((url) => !url.startsWith(address));
  console.log(JSON.stringify({ notice, first, second, foreign, complaints }));
} finally {
  await browser.close();
}
