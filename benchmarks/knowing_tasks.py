"""Tasks with a model that is pretrained or has trained before, for `lr_find` and `lr_search`, and two from scratch.

Half of them start from ImageNet weights (EfficientNet-Lite0 and Lite1, see `real_data.py`), the others from models
that are trained here once and kept in `cache_dir`. Pictures are Fashion-MNIST, texts the docstrings of installed
libraries, tables made up. A task is a learner made from a seed, the planned fit, `fit(learn, lr)`, and the ratio of
the rates of its layer groups. The seed draws the training examples, new heads and the order of batches. Those in
`held_out` were named before any rule was tried."""
from dataclasses import dataclass
from functools import cache

import numpy as np, torch
from fastai.text.all import *
from fastai.vision.all import *
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from fastai_lrx.all import *
from fine_tune_tasks import docstrings, labelled_texts, small_lstm, texts, vocab_size
from measure import quiet
from real_data import *

adam,sgd = Adam,partial(SGD, mom=0.9)

# --- data ----------------------------------------------------------------------------------------------------------------------
def loaders(train, valid, bs):
    return DataLoaders(DataLoader(train, bs=bs, shuffle=True, drop_last=True, num_workers=0),
                       DataLoader(valid, bs=128, num_workers=0))

@cache
def moving_table(shifted, n=3000, width=12):
    "A noisy function of 12 numbers, and a second one like it."
    rng = np.random.default_rng(11)
    x,w = rng.normal(size=(n,width)),rng.normal(size=(2,width,8))
    inner = np.tanh(x @ (w[0] + 0.5*shifted*w[1])/2)
    y = inner.sum(1) + 0.5*inner[:,0]*x[:,0] + rng.normal(size=n)*0.7
    return list(zip(torch.as_tensor(x).float(), torch.as_tensor(y).float()[:,None]))

@cache
def characters(width=48):
    "Docstrings letter by letter, in pieces of `width`: what comes next?"
    text = ' '.join(' '.join(words) for words,*_ in docstrings()[:4000])
    vocab = sorted(set(text))[:60]
    codes = torch.as_tensor([vocab.index(c) if c in vocab else 0 for c in text])
    rows = codes[:len(codes)//(width+1)*(width+1)].view(-1, width+1)
    return [(row[:-1], row[1:]) for row in rows]

# --- models --------------------------------------------------------------------------------------------------------------------
class BodyAndHead(nn.Sequential):
    "A timm model without its classifier, and a head of its own."
    def __init__(self, body, n_out): super().__init__(body, nn.Linear(body.num_features, n_out))

def vit(n_out, **kwargs):
    return BodyAndHead(VisionTransformer(img_size=28, patch_size=4, in_chans=1, num_classes=0, embed_dim=64, depth=4,
                                         num_heads=4, **kwargs), n_out)
def convnext(n_out):
    return BodyAndHead(ConvNeXt(in_chans=1, num_classes=0, depths=(1,1,2,1), dims=(16,32,64,96), patch_size=2), n_out)

sizes = {vit: 28, convnext: 32}

def in_three(m):
    "The first half of the body's blocks, the rest of it, and the head."
    body = m[0]
    blocks = list(body.blocks) if hasattr(body, 'blocks') else [b for stage in body.stages for b in stage.blocks]
    late = {id(p) for b in blocks[len(blocks)//2:] for p in b.parameters()}
    return [[p for p in params(body) if id(p) not in late], [p for p in params(body) if id(p) in late], params(m[1])]

class Causal(Module):
    "A small transformer that predicts the next letter."
    def __init__(self, n_vocab=60, width=64, length=48):
        self.emb,self.pos = nn.Embedding(n_vocab, width),nn.Parameter(torch.randn(length, width)*0.02)
        layer = lambda: nn.TransformerEncoderLayer(width, 4, 2*width, dropout=0., batch_first=True, norm_first=True)
        self.layers,self.head = nn.ModuleList([layer(), layer()]),nn.Linear(width, n_vocab)
        self.register_buffer('mask', torch.triu(torch.ones(length, length), 1).bool())
    def forward(self, x):
        x = self.emb(x) + self.pos
        for l in self.layers: x = l(x, src_mask=self.mask)
        return self.head(x)

def table_model(): return nn.Sequential(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                                        nn.Linear(32, 1))

# --- what they know ------------------------------------------------------------------------------------------------------------
def source(arch, classes=tuple(range(6)), n=20000):
    "`arch` trained on many pictures of these classes: the weights of its body."
    def train():
        dls = loaders(pictures(classes, n, 0, size=sizes[arch]), pictures(classes, 200, 0, 't10k', sizes[arch]), 64)
        learn = quiet(Learner(dls, arch(len(classes)), loss_func=CrossEntropyLossFlat()))
        learn.fit_one_cycle(3, 3e-3)
        return learn.model[0].state_dict()
    return kept(f'{arch.__name__}_source', train)

def language_model():
    def train():
        items = [(row[:-1], row[1:]) for row in texts()[:6000]]
        learn = quiet(Learner(loaders(items, items[:64], 64), lm_of(), loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs()))
        learn.fit_one_cycle(2, 1e-2, moms=(0.8, 0.7, 0.8))
        return learn.model[0].state_dict()
    return kept('language_model', train)

small = {**small_lstm(0.05), 'emb_sz':64, 'n_hid':96, 'n_layers':2}
def lm_of(): return get_language_model(AWD_LSTM, vocab_size, {**awd_lstm_lm_config, **small})

# --- learners: before the fit that is planned ----------------------------------------------------------------------------------
def learner(dls, model, opt, splitter=trainable_params, loss=None, **kwargs):
    return quiet(Learner(dls, model, opt_func=opt, splitter=splitter, loss_func=loss or CrossEntropyLossFlat(),
                         **kwargs))

def lite(seed, number=0, classes=tuple(range(10)), n=200, size=48, opt=adam, wrong=0., bs=32):
    "ImageNet's network with a new head, frozen, for few pictures."
    dls = loaders(pictures(classes, n, seed, size=size, channels=3, wrong=wrong),
                  pictures(classes, 256, 0, 't10k', size, 3), bs)
    return quiet(timm_learner(dls, f'tf_efficientnet_lite{number}', n_groups=3, normalize=False, n_out=len(classes),
                              opt_func=opt, loss_func=CrossEntropyLossFlat(),
                              pretrained_cfg_overlay=dict(file=str(imagenet(number)))))

def small_picture_model(seed, arch, classes, n=300, opt=adam, wrong=0., bs=32, body=True):
    model = arch(len(classes))
    if body: model[0].load_state_dict(source(arch))
    dls = loaders(pictures(classes, n, seed, size=sizes[arch], wrong=wrong),
                  pictures(classes, 500, 0, 't10k', sizes[arch]), bs)
    return learner(dls, model, opt, in_three)

def text_classifier(seed, n=300, opt=adam):
    x,y = labelled_texts('library')
    order = np.random.default_rng(seed).permutation(len(x))
    items = [(x[i], y[i]) for i in order]
    net = get_text_classifier(AWD_LSTM, vocab_size, 4, seq_len=60, config={**awd_lstm_clas_config, **small}, pad_idx=1)
    net[0].module.load_state_dict(language_model())
    return learner(loaders(items[:n], items[-400:], 32), net, opt, awd_lstm_clas_split, cbs=rnn_cbs())

def table_learner(seed, shifted, n=1000, opt=adam):
    items = moving_table(shifted)
    order = np.random.default_rng(seed).permutation(2000)
    return learner(loaders([items[i] for i in order[:n]], items[2000:], 32), table_model(), opt, loss=MSELossFlat())

def after(name, make, train):
    "`make(seed)` after `train(learn)`, which is done once for each seed; its optimizer is new."
    def prepared(seed):
        def state():
            learn = make(seed)
            with learn.no_logging(): train(learn)
            return learn.model.state_dict()
        weights,learn = kept(f'{name}-{seed}'.replace(' ', '_').replace('/', '_'), state),make(seed)
        learn.model.load_state_dict(weights)
        learn.unfreeze()
        learn.opt = None
        return learn
    return prepared

def head_first(epochs, lr):
    def train(learn):
        learn.freeze()
        learn.fit_one_cycle(epochs, lr)
    return train

def whole(epochs, lr): return lambda learn: learn.fit_one_cycle(epochs, np.array(lr) if is_listy(lr) else lr)

# --- the tasks -----------------------------------------------------------------------------------------------------------------
@dataclass
class Task:
    make:callable # of a seed
    epochs:int
    opt:str # 'adam' or 'sgd'
    stage:str # 'head', 'opened', 'on' (trained on) or 'scratch'
    ratio:tuple=(1,) # rates of the layer groups, that of the last is 1
    earlier:float=None # rate of the training before, if there was one
    wd:float=None
    def rates(self, lr):
        "The rates of the layer groups, as `fit_one_cycle` and `lr_find` take them."
        return lr if len(self.ratio)==1 else lr*np.array(self.ratio)
    def fit(self, learn, lr): learn.fit_one_cycle(self.epochs, self.rates(lr))

falling3 = 1/9, 1/3, 1
text_falling = tuple(2.6**-i for i in reversed(range(4)))

def opened(name, make, epochs, opt='adam', ratio=falling3, head=(2, 5e-3)):
    return Task(after(name, make, head_first(*head)), epochs, opt, 'opened', ratio, head[1])

def tasks_of():
    res = {}
    # ImageNet's weights
    res['lite0, new head'] = Task(partial(lite, classes=(0,1,2,3,4), n=160), 4, 'adam', 'head')
    res['lite0, opened'] = opened('lite0 opened', partial(lite, n=240), 4)
    res['lite0, opened, SGD'] = opened('lite0 opened sgd', partial(lite, n=200, opt=sgd), 4, 'sgd', head=(2, 5e-2))
    res['lite0, opened, 64 px, long'] = opened('lite0 64', partial(lite, classes=(2,4,6), n=112, size=64, bs=16), 6)
    res['lite1, opened, wrong labels'] = opened('lite1 wrong', partial(lite, number=1, classes=(0,2,4,6,8), n=200,
                                                                       wrong=0.3), 3)
    res['lite0, trained on'] = Task(after('lite0 on', partial(lite, n=200, classes=(5,6,7,8,9)),
                                          lambda l: (head_first(1, 5e-3)(l), l.unfreeze(),
                                                     l.fit_one_cycle(3, 2e-3*np.array(falling3)))), 4, 'adam', 'on',
                                    falling3, 2e-3)
    res['lite1, new head, SGD'] = Task(partial(lite, number=1, n=100, opt=sgd, bs=16), 5, 'sgd', 'head')
    # models trained here
    new = (6,7,8,9)
    res['ViT, opened'] = opened('vit opened', partial(small_picture_model, arch=vit, classes=new), 6)
    res['ViT, opened, SGD'] = opened('vit opened sgd', partial(small_picture_model, arch=vit, classes=new, opt=sgd), 6,
                                     'sgd', head=(2, 5e-2))
    res['ConvNeXt, opened'] = opened('convnext opened', partial(small_picture_model, arch=convnext, classes=new), 6)
    res['ConvNeXt, wrong labels, trained on'] = Task(
        after('convnext on', partial(small_picture_model, arch=convnext, classes=tuple(range(10)), n=600, wrong=0.3),
              lambda l: l.fit_one_cycle(3, 2e-3*np.array(falling3))), 3, 'adam', 'on', falling3, 2e-3)
    res['text, opened'] = opened('text opened', text_classifier, 5, ratio=text_falling, head=(2, 1e-2))
    res['table, trained on'] = Task(after('table on', partial(table_learner, shifted=0), whole(10, 5e-3)), 6, 'adam',
                                    'on', earlier=5e-3)
    res['table, moved'] = Task(moved_table, 3, 'adam', 'on', earlier=5e-3)
    # transformers that know nothing
    res['ViT from scratch'] = Task(partial(small_picture_model, arch=vit, classes=tuple(range(10)), n=2000, bs=64,
                                           body=False), 4, 'adam', 'scratch')
    res['letters from scratch'] = Task(letters, 2, 'adam', 'scratch')
    return res

def moved_table(seed):
    learn = table_learner(seed, 1, n=300)
    learn.model.load_state_dict(kept('table_long', lambda: trained_table(0)))
    return learn

def trained_table(seed):
    learn = table_learner(seed, 0, n=2000)
    with learn.no_logging(): learn.fit_one_cycle(10, 5e-3)
    return learn.model.state_dict()

def letters(seed):
    items = characters()
    order = np.random.default_rng(seed).permutation(len(items)-300)
    return learner(loaders([items[i] for i in order[:3000]], items[-300:], 32), Causal(), adam)

tasks = tasks_of()
held_out = {'lite0, trained on', 'lite1, opened, wrong labels', 'lite1, new head, SGD', 'ConvNeXt, opened',
              'text, opened', 'letters from scratch'}
design = set(tasks) - held_out
knowing = [name for name,t in tasks.items() if t.stage != 'scratch']

def make(name:str, seed:int)->Learner:
    "The learner of a task."
    set_seed(seed)
    learn = tasks[name].make(seed)
    set_seed(seed)
    return learn
