"""Notebooks as Markdown: what tools/build_readme.py and tools/build_docs.py share."""
import base64, re
from pathlib import Path

from nbdev.process import NBProcessor

def outputs_md(cell, image, before='', light_dark=None):
    """The stored outputs of a code cell as Markdown.

    `image(png, n)` stores picture `n` of the cell and returns its address, `before` is the text above it;
    `light_dark(alt, light, dark)` is the markup of the two pictures of a cell with the line `#| light-dark`."""
    res,alt,outputs = [],alt_text(cell.source, before),cell.get('outputs', [])
    def picture(n, o): return image(base64.b64decode(''.join(o['data']['image/png'])), n)
    if '#| light-dark' in cell.source: return light_dark(alt, *(picture(n, o) for n,o in enumerate(outputs)))
    for n,o in enumerate(outputs):
        data = o.get('data', {})
        text = lambda k: ''.join(data[k])
        if 'image/png' in data: res.append(f'![{alt}]({picture(n, o)})')
        elif 'text/markdown' in data: res.append(text('text/markdown'))
        elif 'text/html' in data: res.append(re.sub(r'<style.*?</style>', '', text('text/html'), flags=re.S))
        else:
            if 'text/plain' in data: plain = text('text/plain')
            else:                    plain = '' if o.get('name')=='stderr' else ''.join(o.get('text', []))
            plain = '\n'.join(line.split('\r')[-1].rstrip() for line in plain.split('\n')).strip('\n')
            if plain.strip(): res.append('```text\n' + plain + '\n```')
    return '\n\n'.join(res)

def alt_text(source, before=''):
    """What a picture shows: `#| fig-alt: ...` of its cell, or the title that it is given there.

    Without them the first sentence of the text above it, and the call that drew it."""
    if given := re.search(r'^#\| fig-alt: (.+)$', source, flags=re.M): return given[1].strip()
    if title := re.search(r'title(?:=|\()[\'"]([^\'"{]+)[\'"]', source): return f'Figure: {title[1]}'
    lines = [l for l in source.strip().splitlines() if l.strip() and not l.startswith('#|')]
    prose = re.sub(r'^#.*$|^>.*$|^```.*?^```|\$\$.*?\$\$', '', before, flags=re.M|re.S).strip()
    said = re.split(r'(?<=[.:!?])\s', re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', prose))[0].rstrip('.:') if prose else ''
    drawn = f'figure drawn by {lines[-1].strip()}' if lines else 'figure'
    return re.sub(r'[\[\]`*\n|$]', ' ', f'{said}: {drawn}' if said else drawn).strip()

def cell_md(cell, image, before='', light_dark=None):
    "One cell as Markdown; hidden ones are empty. `before` is the text above it."
    if cell.cell_type=='markdown': return cell.source
    d = getattr(cell, 'directives_', {})
    if cell.cell_type!='code' or 'hide' in d or d.get('include')=='false': return ''
    source = '\n'.join(l for l in cell.source.splitlines() if not l.startswith('#|')).strip('\n')
    code = '' if d.get('echo')=='false' or not source else f'``` python\n{source}\n```'
    return '\n\n'.join(o for o in (code, outputs_md(cell, image, before, light_dark)) if o)

def notebook_md(path, image_dir:Path, address:str, light_dark):
    """A notebook as Markdown; its pictures are written to `image_dir`, and linked as `address/name`.

    `light_dark`: see `outputs_md`."""
    def image(png, n):
        name = f'{Path(path).stem}-{cell.id}-{n}.png'          # Sphinx puts all pictures into one folder
        image_dir.mkdir(parents=True, exist_ok=True)
        (image_dir/name).write_bytes(png)
        return f'{address}/{name}'
    parts,before = [],''
    for cell in NBProcessor(path, rm_directives=False).nb.cells:
        parts.append(cell_md(cell, image, before, light_dark))
        if cell.cell_type=='markdown': before = cell.source
    return '\n\n'.join(p for p in parts if p.strip()) + '\n'
