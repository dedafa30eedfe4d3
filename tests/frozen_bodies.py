"""Learners whose body is frozen, small enough for tests, and the oracle that `learn.precomputed()` is compared with."""
import warnings
from functools import partial

import numpy as np, torch
from torch import nn
from fastai.vision.all import *
from fastai.text.all import *
from fastcore.test import test_fail
from fastai_lrx.all import *
from fastai_lrx.spread.precompute import FixedBody, MarkActivations
from tiny import get_label, learner, quiet, same, two_groups, weights

# Learners

def draw(i, size=16):
    rng = np.random.default_rng(i)
    return PILImage.create((rng.integers(0, 120, (size,size,3)) + 60*(i%3)).astype(np.uint8))

def images(n=45, n_valid=15, size=16, bs=8, num_workers=0, batch_tfms=None, item_tfms=None, dl_type=None, **kwargs):
    "Loaders of images in three classes, shuffled, not augmented unless asked for"
    block = DataBlock((ImageBlock, CategoryBlock), get_x=partial(draw, size=size), get_y=get_label,
                      splitter=IndexSplitter(range(n_valid)), batch_tfms=batch_tfms, item_tfms=item_tfms)
    return block.datasets(list(range(n))).dataloaders(bs=bs, num_workers=num_workers, dl_type=dl_type,
                                                      after_item=[ToTensor, *L(item_tfms)],
                                                      after_batch=[IntToFloatTensor, *L(batch_tfms)], **kwargs)

def convnet(loaders=images, seed=0, cbs=None, **kwargs):
    """A convnet with BatchNorm and Dropout in body and head, the body frozen.

    SGD has no square roots to blow rounding up."""
    set_seed(seed)
    body = nn.Sequential(ConvLayer(3, 4), nn.Dropout(0.3), ConvLayer(4, 8, stride=2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    learn = quiet(Learner(loaders(), nn.Sequential(body, head), loss_func=CrossEntropyLossFlat(), metrics=accuracy,
                          splitter=two_groups, cbs=cbs, **kwargs))
    learn.freeze()
    return learn

def of_torch(**kwargs):
    learn = learner('tensors', **kwargs)
    learn.freeze()
    return learn

def frozen(learn, n=-1):
    learn.freeze_to(n)
    return quiet(learn)

def texts(length=12):
    set_seed(0)
    rows = [(torch.randint(2, 30, (length,)), torch.tensor(i%2)) for i in range(40)]
    dls = DataLoaders.from_dsets(rows[:30], rows[30:], bs=6, num_workers=0)
    net = get_text_classifier(AWD_LSTM, 30, 2, seq_len=9,
                              config={**awd_lstm_clas_config, 'emb_sz': 8, 'n_hid': 12, 'n_layers': 2}, pad_idx=1)
    return frozen(Learner(dls, net, loss_func=CrossEntropyLossFlat(), splitter=awd_lstm_clas_split, cbs=rnn_cbs()))

# Transforms and callbacks

class Drift(Transform):
    split_idx = 0
    def encodes(self, x:TensorImage): return x + torch.randn(1)*0.1

class BodyInEval(Callback):
    "The oracle: the whole frozen body, the first modules of the model, in evaluation mode and out of autograd"
    run_after = TrainEvalCallback
    def __init__(self, n=1): self.n = n
    def before_fit(self):
        for p in self.model[:self.n].parameters(): p.requires_grad_(False).grad = None
    def before_train(self): self.model[:self.n].eval()

class Seen(Callback):
    "What the head is sent in each epoch of training, by item"
    def before_fit(self): self.epochs = []
    def before_train(self):
        self.epochs.append([])
        self.hook = self.model[1][2].register_forward_pre_hook(self.note)
    def note(self, m, args):
        if m.training: self.epochs[-1].append(args[0].detach().clone())
    def after_train(self):
        self.hook.remove()
        self.epochs[-1] = torch.cat(self.epochs[-1]).flatten(1).sum(1).sort()[0]

# Questions

def train(l): l.fit(2, 1e-2)

def refuses(words_, f, exc=ValueError):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        test_fail(f, contains=words_, exc=exc)

def inside(learn, f, **kwargs):
    with learn.precomputed(**kwargs): f(learn)

def facts(learn): return [learn.model, learn.dls, learn.opt, learn.recorder, *learn.cbs, *learn.dls.loaders]

def clean(learn):
    "Whether nothing of the block is left in a learner"
    bypassed = any('forward' in vars(m) for m in learn.model.modules())
    watched = any(isinstance(cb, (FixedBody,MarkActivations)) for cb in learn.cbs)
    return not bypassed and not watched and (learn.opt is None or 'all_params' not in vars(learn.opt))

def unchanged(before, after): return len(before)==len(after) and all(a is b for a,b in zip(before, after))

def rngs(): return [torch.get_rng_state(), torch.tensor([random.random()]), torch.tensor([np.random.rand()])]

def difference(make, train, n=1, **kwargs):
    """By how much weights differ after training inside, and with the body in evaluation mode.

    Random generators must agree."""
    live = make()
    live.add_cb(BodyInEval(n))
    set_seed(1)
    train(live)
    live_rng = rngs()
    learn = make()
    set_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with learn.precomputed(**kwargs): train(learn)
    assert same(rngs(), live_rng)
    assert not same(list(make().model.parameters()), list(learn.model.parameters()))
    return max(float((a-b).abs().max()) for a,b in zip(weights(learn), weights(live)) if a.numel())
