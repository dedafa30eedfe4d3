"""The built site, looked at: every link, anchor and picture.

And every page in a real browser, where chromium and its driver are installed."""
import functools, http.server, json, shutil, sys, threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from fastcore.xtras import Config
from nbdev.config import get_config

searches = 'lr_find', 'triangular2', 'gradual unfreezing'
max_landing = 1.5e6 # bytes that the landing page may take, with all it loads

def dead_ends(site:Path)->list:
    "Links and anchors inside the site that lead nowhere, pictures without a file or a description."
    pages = {p.name: BeautifulSoup(p.read_text(), 'html.parser') for p in site.glob('*.html')}
    anchors = {name: {o.get('id') or o.get('name')
                      for o in page.find_all(lambda o: o.has_attr('id') or o.has_attr('name'))}
                      for name,page in pages.items()}
    res = []
    for name,page in pages.items():
        for a in page.find_all('a', href=True):
            to = urlsplit(a['href'])
            if to.scheme or to.netloc: continue
            target = unquote(to.path) or name
            if not (site/target).exists(): res.append(f'{name}: {a["href"]} does not exist')
            elif to.fragment and target in anchors and unquote(to.fragment) not in anchors[target]:
                res.append(f'{name}: {a["href"]} has no such anchor')
        for img in page.find_all('img'):
            if not img.get('alt', '').strip(): res.append(f'{name}: {img.get("src")} has no alt text')
            if not urlsplit(img['src']).scheme and not (site/unquote(img['src'])).exists():
                res.append(f'{name}: {img["src"]} does not exist')
    return res

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

def serve(site:Path):
    "Serve the site on loopback; the server and its address."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server,f'http://127.0.0.1:{server.server_port}/'

def browser(width=1280, height=1000):
    "A headless chromium that notes its console and its requests."
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    for o in ('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
              'disable-component-update', 'disable-sync', 'disable-dev-shm-usage', f'window-size={width},{height}'):
        options.add_argument(f'--{o}')
    options.binary_location = shutil.which('chromium')
    options.set_capability('goog:loggingPrefs', dict(browser='ALL', performance='ALL'))
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
    driver.set_page_load_timeout(60)
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                           dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600))
    return driver

def strangers(driver, address)->list:
    "Addresses of other hosts that were asked for since the last call."
    sent = [json.loads(o['message'])['message'] for o in driver.get_log('performance')]
    urls = [o['params']['request']['url'] for o in sent if o['method'] == 'Network.requestWillBeSent']
    return [u for u in urls if not u.startswith((address, 'data:', 'blob:', 'chrome'))]

def look(driver, address, name)->list:
    "What is wrong with a page: errors, requests to others, pictures that do not render."
    driver.get(address + name)
    res = [f'{name}: {o["message"]}' for o in driver.get_log('browser') if o['level'] in ('SEVERE', 'WARNING')]
    res += [f'{name}: asks {u}' for u in strangers(driver, address)]
    broken = driver.execute_async_script("""
        const done = arguments[0], images = [...document.images];
        images.forEach(i => i.loading = 'eager');
        Promise.all(images.map(i => i.decode().then(() => null, () => i.src))).then(r => done(r.filter(Boolean)))""")
    return res + [f'{name}: {src} does not render' for src in broken]

def too_wide(driver, address, name)->list:
    "Whether a page must be scrolled sideways."
    driver.get(address + name)
    # furo has it scroll, not the window
    over = driver.execute_script("const c = document.querySelector('.content'); return c.scrollWidth - c.clientWidth")
    return [f'{name}: {over} pixels wider than a phone'] if over > 0 else []

def finds(driver, address, query)->list:
    "Whether the search returns pages."
    from selenium.webdriver.support.ui import WebDriverWait
    driver.get(f'{address}search.html?q={query.replace(" ", "+")}')
    try:
        WebDriverWait(driver, 20).until(lambda d: d.execute_script("return document.querySelectorAll('#search-results "
                                                                   "li a').length"))
    except Exception: return [f'search for {query!r}: nothing found']
    return [f'search for {query!r}: asks {u}' for u in strangers(driver, address)]

def copies(driver, address, name)->list:
    "Whether the first copy button of a page puts the code into the clipboard."
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait
    driver.execute_cdp_cmd('Browser.grantPermissions',
                           dict(origin=address, permissions=['clipboardReadWrite', 'clipboardSanitizedWrite']))
    driver.get(address + name)
    button = driver.find_element('css selector', 'button.copybtn')
    code = driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'}); return "
                                 "arguments[0].parentElement.querySelector('pre').innerText", button)
    ActionChains(driver).move_to_element(button).click().perform()
    read = 'const done = arguments[0]; navigator.clipboard.readText().then(done, done)'
    try: WebDriverWait(driver, 10).until(lambda d: str(d.execute_async_script(read)).strip() == code.strip())
    except Exception: return [f'{name}: its copy button does not copy']
    return []

def weight(driver, address, name)->int:
    "Bytes of a page with all that it loads."
    driver.get(address + name)
    return driver.execute_script("return [...performance.getEntriesByType('resource'), "
                                 "...performance.getEntriesByType('navigation')].reduce((n, e) => n + "
                                 "e.encodedBodySize, 0)")

def main():
    cfg,ini = get_config(),Config.find('settings.ini')
    site = cfg.config_path/ini.docs_path
    problems,pages = dead_ends(site),sorted(p.name for p in site.glob('*.html'))
    said = f'{len(pages)} pages'
    if shutil.which('chromium') and shutil.which('chromedriver'):
        server,address = serve(site)
        driver,phone = browser(),browser(390, 844)
        try:
            for name in pages: problems += look(driver, address, name) + too_wide(phone, address, name)
            for query in searches: problems += finds(driver, address, query)
            problems += copies(driver, address, 'index.html')
            if (size := weight(driver, address, 'index.html')) > max_landing:
                problems.append(f'index.html: weighs {size/1e6:.2f} MB')
            said += f', the first of {size/1e6:.2f} MB, in chromium at 1280 and 390 pixels'
        finally:
            for o in (driver, phone): o.quit()
            server.shutdown()
    else: said += '; chromium or its driver is not installed, so no browser has seen them'
    if problems: raise SystemExit('\n'.join(problems))
    print(said)

if __name__=='__main__': main()
