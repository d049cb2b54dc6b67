// A person at a real Chromium: walks the built-in pages from URL to the end.
// See README.md for the flags and the one line of JSON that it prints.
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const { values: flags, positionals: [url] } = parseArgs({
  allowPositionals: true,
  options: {
    user: { type: 'string', default: 'alice' },
    deny: { type: 'boolean' },
    'close-at': { type: 'string' },
    back: { type: 'boolean' },
    shot: { type: 'string' },
    dark: { type: 'boolean' },
    'no-scripts': { type: 'boolean' },
  },
});
if (!url || ![undefined, 'login', 'consent'].includes(flags['close-at'])) {
  console.error('usage: node browser.mjs URL [--user NAME] [--deny] [--close-at login|consent] [--back] [--shot FILE] [--dark] [--no-scripts]');
  process.exit(2);
}

const loopback = ['127.0.0.1', 'localhost', '[::1]'];
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

async function walk() {
  const page = await browser.newPage({
    colorScheme: flags.dark ? 'dark' : 'light',
    javaScriptEnabled: !flags['no-scripts'],
    ignoreHTTPSErrors: true, // the CA is the test's
  });
  // The built-in pages ask for a web font; nothing leaves this machine.
  const blocked = new Set();
  await page.route((to) => !loopback.includes(to.hostname), (route) => {
    blocked.add(route.request().url());
    return route.abort();
  });
  const errors = [];
  page.on('console', (message) => {
    if (message.type() === 'error' && !blocked.has(message.location().url)) errors.push(message.text());
  });
  page.on('pageerror', (err) => errors.push(err.message));

  const seen = async () => ({ url: page.url(), title: await page.title(), text: (await page.locator('body').innerText()).trim(), errors });
  const has = (selector) => page.locator(selector).count();
  const click = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);

  await page.goto(url, { waitUntil: 'commit' });
  await page.waitForLoadState();
  if (!flags['no-scripts']) {
    // The first page for a device is a form that sends itself.
    await page.locator('body:not(:has(form > noscript))').waitFor({ state: 'attached' });
    await page.waitForLoadState();
  }
  for (let step = 0; step < 10; step += 1) {
    if (await has('input[name=login]')) {
      if (flags['close-at'] === 'login') return seen();
      await page.fill('input[name=login]', flags.user);
      await page.fill('input[name=password]', 'any');
      await click('button[type=submit]');
    } else if (await has('input[name=prompt][value=consent]')) {
      if (flags['close-at'] === 'consent') return seen();
      await click(flags.deny ? '.login-help a' : 'button[type=submit]');
    } else if (await has('input[name=confirm]')) {
      await click(flags.deny ? 'button[name=abort]' : 'button[autofocus]');
    } else if (await has('form > noscript')) {
      await click('button[type=submit]');
    } else {
      break;
    }
  }
  if (flags.back) await page.goBack();
  if (flags.shot) await page.screenshot({ path: flags.shot, fullPage: true });
  return seen();
}

try {
  console.log(JSON.stringify(await walk()));
} finally {
  await browser.close();
}
