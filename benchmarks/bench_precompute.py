"""How much faster frozen training is with `precomputed()`: compared with stock, with a forward pass, and in memory.

Protocol. timm's resnet18, convnext_atto and vit_tiny_patch16_224 in stock's `vision_learner`, body frozen by
`learn.freeze()`, 96 px, 1024 images of noise to train on and 256 to validate with, in memory (so nothing is gained from
images that need no reading), batches of 32. Paired in one process, the parts in turn, after one round to warm up: (1)
an epoch outside, and a fifth of five epochs inside `learn.precomputed()`, with validation; (2) three epochs outside,
and filling plus three epochs inside; (3) filling, and the body's forward pass over the same loaders, in evaluation mode
without autograd. (4) In a process of its own: how far anonymous resident memory (RssAnon) rises while 4 GiB of
activations are filled.

This is the second protocol. In the first, (1) timed a single epoch inside, a fifth of a second, right after ten
seconds of stock's; a third of that time was waking up. It gave ratios of 38.6, 23.0 and 61.4 on the same code."""
import statistics, subprocess, sys, threading, warnings
from pathlib import Path

warnings.simplefilter('ignore')
from fastai.vision.all import *
from fastai_lrx.all import *
from fastai_lrx.core.plots import new_axes
from measure import draw_ratios, machine, page, paired, picture, publish, quiet, ratio, span, stored, table

archs = 'resnet18', 'convnext_atto', 'vit_tiny_patch16_224'

def learner(arch, n=1024, n_valid=256, bs=32, size=96):
    "Stock's learner on noise, frozen"
    set_seed(0)
    items = [(torch.randn(3, size, size), torch.tensor(i%10)) for i in range(n+n_valid)]
    extra = dict(img_size=size) if arch.startswith('vit') else {}
    learn = quiet(vision_learner(DataLoaders.from_dsets(items[:n], items[n:], bs=bs, num_workers=0), arch,
                                 pretrained=False, n_out=10, loss_func=CrossEntropyLossFlat(), **extra))
    learn.freeze()
    return learn

def forward_pass(learn):
    learn.model.eval()
    with torch.no_grad():
        for dl in learn.dls:
            for x,_ in dl: learn.model[0](x)

def fill(learn):
    with learn.precomputed(): pass

def three_epochs(learn):
    with learn.precomputed(): learn.fit(3, 1e-3)

def times(arch, rounds):
    live,cached = learner(arch),learner(arch)
    with cached.precomputed():
        epoch = paired(dict(stock=lambda: live.fit(1, 1e-3), inside=lambda: cached.fit(5, 1e-3)), rounds)
    epoch['inside'] = [s/5 for s in epoch['inside']]
    three = paired(dict(stock=lambda: live.fit(3, 1e-3), ours=lambda: three_epochs(cached)), 3)
    filling = paired(dict(fill=lambda: fill(cached), forward=lambda: forward_pass(live)), rounds)
    median = lambda d: {k: statistics.median(v) for k,v in d.items()}
    return dict(epoch=median(epoch), three=median(three), filling=median(filling),
                speedup=ratio(epoch['stock'], epoch['inside']),
                speedup_of_three=ratio(three['stock'], three['ours']),
                filling_over_forward=ratio(filling['fill'], filling['forward']))

def rss_anon():
    "Anonymous resident memory of this process, in MB."
    return int(re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

class Noise:
    "Images made when they are asked for"
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((3,32,32), i/self.n),torch.tensor(i%2)

def memory(gib=4):
    "Prints by how many MB anonymous memory rises while activations of so many GiB are filled, and their bytes"
    row = 64*32*32*4
    dls = DataLoaders.from_dsets(Noise(gib*2**30//row - 64), Noise(64), bs=64, num_workers=0)
    model = nn.Sequential(nn.Conv2d(3, 64, 1),
                          nn.Sequential(nn.Conv2d(64, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(),
                          splitter=lambda m: [params(m[0]), params(m[1])]))
    learn.freeze()
    done,seen,before = threading.Event(),[],rss_anon()
    def watch():
        while not done.wait(0.05): seen.append(rss_anon())
    threading.Thread(target=watch, daemon=True).start()
    with learn.precomputed():
        done.set()
        filled = sum(t.nbytes for dl in learn.dls.loaders for t in dl.rows.tensors)
    print(max(seen)-before, filled)

def memory_in_a_process():
    out = subprocess.run([sys.executable, '-W', 'ignore', __file__, 'memory'], capture_output=True, text=True,
                         check=True).stdout.split()
    return dict(rise_mb=float(out[-2]), filled_bytes=int(out[-1]))

def show(r): return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f}, {r['rounds']} rounds)"

def report(res):
    "The results as a page."
    times,m = res['times'],res['memory']
    def medians(key): return [r[key]['median'] for r in times.values()]
    ratios = (('an epoch: stock / inside (a fifth of five)', 'speedup'),
              ('three epochs: stock / ours, with filling', 'speedup_of_three'),
              ('filling / a forward pass alone', 'filling_over_forward'))
    seconds = (('seconds of an epoch: stock, inside', 'epoch'), ('seconds of three: stock, ours', 'three'),
               ('seconds: filling, forward pass', 'filling'))
    rows = [[label, *(show(r[key]) for r in times.values())] for label,key in ratios]
    rows += [[label, *(', '.join(f'{s:.2f}' for s in r[key].values()) for r in times.values())]
             for label,key in seconds]
    return page('precompute', 'How much faster are frozen epochs with `precomputed()`?',
        "`precomputed()` computes the activations of the frozen body once; epochs inside train only the head. "
        "Compared with frozen epochs of stock's `vision_learner`, on three networks, 1024 pictures of noise to train "
        f"on and 256 to validate with, 96 px, in memory. Measured on {res['machine']}.",
        f"On a CPU, an epoch inside `precomputed()` is {span(medians('speedup'), '.0f')} times faster than stock's. "
        "Three epochs, including the pass that computes the activations, are "
        f"{span(medians('speedup_of_three'))} times faster than three of stock's.",
        picture('precompute', "How many times faster than stock's one epoch inside precomputed() is, and three "
                              'epochs with the pass that computes the activations; and that pass over a forward '
                              'pass; three networks'),
        f"The pass that computes the activations (\"filling\") costs {span(medians('filling_over_forward'), '.2f')} "
        'forward passes, so `precomputed()` pays from the first epoch on, and more with each further one. Ratios are medians (90% interval, or the whole '
        'range where rounds are few; number of rounds).',
        table(['', *times], rows),
        f"The activations may be larger than the memory: while {m['filled_bytes']/2**30:.1f} GiB of them are "
        f"written to a file, anonymous memory rises by {m['rise_mb']:.0f} MB.")

def draw(res):
    fig,axes = new_axes(1, 3, size=(2.65, 1.9))
    for ax,key,label in zip(axes, ('speedup', 'speedup_of_three', 'filling_over_forward'),
                            ("one epoch:\nstock's time / ours", "three epochs and filling:\nstock's time / ours",
                             'filling:\ntime / a forward pass')):
        draw_ratios(ax, {arch.split('_patch')[0]: r[key] for arch,r in res['times'].items()})
        ax.set(xlabel=label, xlim=(0, None))
        ax.label_outer()
    return fig

def main():
    if sys.argv[1:] == ['memory']: return memory()
    res = stored('precompute') or dict(machine=machine(), memory=memory_in_a_process(),
                                       times={arch: times(arch, 5) for arch in archs})
    publish('precompute', res, report(res), dict(precompute=draw(res)))

if __name__=='__main__': main()
