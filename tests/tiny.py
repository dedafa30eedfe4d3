"""Learners small enough for tests, one of each kind, with every source of randomness switched on."""
import contextlib, io, os, random, tempfile, warnings
from pathlib import Path

import numpy as np, pandas as pd, torch
from torch import nn
from fastai.vision.all import *
from fastai.tabular.all import *
from fastai.text.all import *

# tiny models on shared cores: threads would wait for each other
torch.set_num_threads(int(os.environ.get('LRX_TEST_THREADS', 1)))
kinds = 'vision', 'tensors', 'text', 'tabular'

def learner(kind:str, num_workers=0, seed=0, **kwargs):
    "A tiny learner of one of the `kinds`: shuffling, dropout, random transforms, BatchNorm, several layer groups."
    set_seed(seed)
    return quiet(quietly(globals()[f'{kind}_learner_'], num_workers,
                         path=kwargs.pop('path', Path(tempfile.gettempdir())/'lrx_never_written'), **kwargs))

def outlives_freeze(cls):
    """Whether a torch optimizer recreates its state after fastai's `freeze` has cleared it.

    Adagrad of older versions makes it only once."""
    p = nn.Parameter(torch.zeros(1))
    opt = cls([p])
    p.grad = torch.zeros(1)
    opt.state.clear()
    try: opt.step()
    except KeyError: return False
    return True
Summing = torch.optim.Adagrad if outlives_freeze(torch.optim.Adagrad) else torch.optim.Adadelta

def no_rows(row): "A logger that shows no table; with `noop` there were no messages, either."
def quiet(learn):
    "The same learner without progress bars and tables."
    learn.remove_cbs(ProgressCallback)
    learn.logger = no_rows
    return learn

class Jitter(RandTransform):
    "A random transform with a generator and a counter of its own."
    split_idx = 0
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rng,self.calls = np.random.default_rng(0),0
    def encodes(self, x:TensorImage):
        self.calls += 1
        return x + float(self.rng.normal())*0.1

def get_image(i):
    rng = np.random.default_rng(i)
    return PILImage.create((rng.integers(0, 120, (16,16,3)) + 60*(i%3)).astype(np.uint8))
def get_label(i): return i%3

def vision_learner_(num_workers, **kwargs):
    block = DataBlock((ImageBlock, CategoryBlock), get_x=get_image, get_y=get_label, splitter=IndexSplitter(range(24)),
                      item_tfms=RandomCrop(12), batch_tfms=[*aug_transforms(size=12, max_warp=0), Jitter()])
    dls = block.dataloaders(list(range(72)), bs=8, num_workers=num_workers)
    body = nn.Sequential(ConvLayer(3, 4), ConvLayer(4, 8, stride=2))
    model = nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 3)))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=two_groups, **kwargs)
def two_groups(m): return [params(m[0]), params(m[1])]

def tensors_learner_(num_workers, **kwargs):
    x = torch.randn(72, 5)
    items = list(zip(x, (x.sum(1, keepdim=True) > 0).float()))
    def loader(items, shuffle):
        return torch.utils.data.DataLoader(items, batch_size=8, shuffle=shuffle, num_workers=num_workers,
                                           drop_last=shuffle, generator=torch.Generator().manual_seed(1))
    dls = DataLoaders(loader(items[:48], True), loader(items[48:], False))
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()),
                          nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 1)))
    return Learner(dls, model, loss_func=BCEWithLogitsLossFlat(), splitter=two_groups, **kwargs)

def text_learner_(num_workers, **kwargs):
    rng = random.Random(0)
    words = 'the cat dog sat ran on under a mat log and then it slept'.split()
    texts = [' '.join(rng.choices(words, k=rng.randint(20, 40))) for _ in range(60)]
    tfm = Numericalize(['xxunk','xxpad']+words)
    dsets = Datasets(L(texts), [[str.split, tfm]], splits=[list(range(45)), list(range(45, 60))])
    dls = dsets.dataloaders(bs=4, seq_len=9, dl_type=LMDataLoader, num_workers=num_workers)
    config = {**awd_lstm_lm_config, 'emb_sz':8, 'n_hid':12, 'n_layers':2}
    return LMLearner(dls, get_language_model(AWD_LSTM, len(tfm.vocab), config), loss_func=CrossEntropyLossFlat(),
                     splitter=awd_lstm_lm_split, metrics=accuracy, **kwargs)

def tabular_learner_(num_workers, **kwargs):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(color=rng.choice(list('rgb'), 72), size=rng.normal(size=72), weight=rng.normal(size=72)))
    df['price'] = df['size']*2 + (df.color=='r')
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['color'],
                                     cont_names=['size','weight'], y_names='price',
                                     y_block=RegressionBlock(), valid_idx=list(range(24)), bs=8,
                                     num_workers=num_workers)
    return tabular_learner(dls, layers=[8], config=tabular_config(ps=0.2, embed_p=0.1), **kwargs)

def weights(learn):
    "All that was trained: parameters, all buffers, and the recorded losses."
    losses = [float(o) for o in learn.recorder.losses]
    return [*(p.detach().clone() for p in learn.model.parameters()), *(b.clone() for b in learn.model.buffers()),
            torch.tensor(losses)]

def quietly(f, *args, **kwargs):
    "What a function gives, without what it prints and warns of."
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

def same(a, b):
    "Whether two lists of tensors are equal, to the bit."
    return len(a)==len(b) and all(x.shape==y.shape and torch.equal(x, y) for x,y in zip(a, b))

def lstm_in_bf16()->bool:
    "Whether this processor has an LSTM in bf16: with AVX2 alone oneDNN has none."
    try:
        with torch.autocast('cpu', dtype=torch.bfloat16): nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    except RuntimeError: return False
    return True
has_lstm_in_bf16 = lstm_in_bf16()

class CPUAutocast(MixedPrecision):
    """bf16 autocast on the CPU; fastai's own is hard-wired to CUDA.

    An LSTM stays in full precision where the processor cannot have it otherwise."""
    def before_fit(self):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            super().before_fit()
        can = has_lstm_in_bf16 or not any(isinstance(m, nn.LSTM) for m in self.model.modules())
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16, enabled=can)
def bf16(): return CPUAutocast(amp_mode=AMPMode.BF16)

class Mishap(Callback):
    "Something bad at the `n`-th batch of training, in `event`."
    def __init__(self, what, n=7, event='after_pred'):
        self.what,self.n,self.seen = what,n,0
        setattr(self, event, self._strike)
    def _strike(self):
        if not self.training: return
        self.seen += 1
        if self.seen==self.n: self.what(self.learn)
def interrupt(learn): raise KeyboardInterrupt
def error(learn): raise RuntimeError('out of memory')
def nan_loss(learn):
    learn.loss = learn.loss*float('nan')
    learn.loss_grad = learn.loss_grad*float('nan')

def timm_in_small(arch='test_vit', seed=0, **kwargs):
    "One of timm's miniatures in a learner as `timm_learner` makes it, on noise."
    from fastai_lrx.all import timm_learner          # some tests look at fastai without us
    set_seed(seed)
    items = [(torch.randn(3, 32, 32), torch.tensor(i%3)) for i in range(16)]
    dls = DataLoaders.from_dsets(items, items[:4], bs=4, num_workers=0)
    return quiet(timm_learner(dls, arch, pretrained=False, n_out=3, loss_func=CrossEntropyLossFlat(), **kwargs))

class Rates(Callback):
    "The rates of every training batch."
    def before_fit(self): self.rows = []
    def after_pred(self): self.rows += [[h['lr'] for h in self.opt.hypers]]*self.training
