"""Transfer tasks on which ways of fine-tuning are compared: a source to pretrain on, a target with few labels, made from what is installed.

The source model of a task is trained once; the seed of a run draws the target's labelled examples, the new head and the order of batches.
Three tasks are kept aside, named before the benchmark was run: both halves hold a CNN, a ViT and a text model."""
import inspect, re
from functools import cache
from pathlib import Path

import numpy as np, torch
from PIL import Image, ImageDraw
from sklearn import datasets
from fastai.vision.all import *
from fastai.text.all import *
from fastai_lrx.all import *
from measure import quiet

n_labels = {('digits','cnn'): 60, ('digits','vit'): 150, ('shapes','cnn'): 100, ('shapes','vit'): 200, ('library','lstm'): 500, ('kind','lstm'): 500}
n_test = 400

# --- images -------------------------------------------------------------------------------------------------------------------
@cache
def digits(classes):
    "scikit-learn's digits of these classes, enlarged to 32 pixels."
    d = datasets.load_digits()
    keep = np.isin(d.target, classes)
    x = F.interpolate(torch.as_tensor(d.images[keep, None]/8-1).float(), size=32, mode='bilinear')
    return x,torch.as_tensor(d.target[keep]-min(classes))

def polygon(n, turn, inner=1.): return [(np.cos(a)*(1 if i%2==0 else inner), np.sin(a)*(1 if i%2==0 else inner)) for i,a in enumerate(turn + np.arange(n)*2*np.pi/n)]
outlines = dict(triangle=polygon(3, -np.pi/2), square=polygon(4, np.pi/4), star=polygon(10, -np.pi/2, 0.4), bar=[(-1,-.25),(1,-.25),(1,.25),(-1,.25)], disk=polygon(40, 0),
                pentagon=polygon(5, -np.pi/2), cross=[(-.3,-1),(.3,-1),(.3,-.3),(1,-.3),(1,.3),(.3,.3),(.3,1),(-.3,1),(-.3,.3),(-1,.3),(-1,-.3),(-.3,-.3)],
                arrow=[(-1,-.25),(.1,-.25),(.1,-.8),(1,0),(.1,.8),(.1,.25),(-1,.25)], corner=[(-.8,-.8),(-.2,-.8),(-.2,.3),(.8,.3),(.8,.8),(-.8,.8)], hexagon=polygon(6, 0))

@cache
def shapes(classes, n=2500):
    "32-pixel gray images of filled outlines at random places, sizes and angles, over lines and noise."
    rng = np.random.default_rng(min(classes))
    y = rng.choice(list(classes), n)
    def draw(k):
        img = Image.new('L', (64,64), int(rng.integers(60, 120)))
        pen = ImageDraw.Draw(img)
        for _ in range(3): pen.line([tuple(rng.integers(0, 64, 2)) for _ in range(2)], fill=int(rng.integers(90, 180)), width=2)
        turn,size,(cx,cy) = rng.uniform(-.4, .4),rng.uniform(14, 24),rng.uniform(26, 38, 2)
        pen.polygon([(cx+size*(u*np.cos(turn)-v*np.sin(turn)), cy+size*(u*np.sin(turn)+v*np.cos(turn))) for u,v in list(outlines.values())[k]], fill=int(rng.integers(150, 255)))
        return np.asarray(img.resize((32,32)))/128-1
    return torch.as_tensor(np.stack([draw(k)[None] for k in y]) + rng.normal(0, .15, (n,1,32,32))).float(),torch.as_tensor(y-min(classes))

# --- text: docstrings of libraries that come with fastai --------------------------------------------------------------------------
length,vocab_size = 40,3000

@cache
def docstrings():
    "(words, library, kind) of the first `length` words of docstrings: what library it belongs to, and whether to a class, a method or a function."
    import matplotlib.axes, pandas, scipy.optimize, scipy.signal, scipy.stats, sklearn.ensemble, sklearn.linear_model, torch
    libraries = dict(numpy=[np, np.linalg, np.random], scipy=[scipy.stats, scipy.signal, scipy.optimize], pandas=[pandas], torch=[torch, torch.nn, torch.nn.functional])
    res,seen = [],set()
    def add(o, library, kind):
        words = [w for w in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", (inspect.getdoc(o) or '').lower())][:length]
        if len(words) == length and tuple(words) not in seen: res.append((words, library, kind))
        seen.add(tuple(words))
    for i,modules in enumerate(libraries.values()):
        for m in modules:
            for name,o in sorted(vars(m).items()):
                if name.startswith('_'): continue
                if inspect.isclass(o):
                    add(o, i, 0)
                    for _,f in sorted((k,v) for k,v in vars(o).items() if not k.startswith('_') and callable(v)): add(f, i, 1)
                elif callable(o): add(o, i, 2)
    return [res[i] for i in np.random.default_rng(0).permutation(len(res))]

@cache
def word_numbers():
    "Number of each of the most frequent words; 0 is unknown, 1 would pad."
    counts = Counter(w for words,_,_ in docstrings() for w in words)
    return {w: i+2 for i,(w,_) in enumerate(counts.most_common(vocab_size-2))}

@cache
def texts(label):
    "All docstrings as rows of word numbers, with one of their labels."
    number = word_numbers()
    return torch.as_tensor([[number.get(w, 0) for w in words] for words,_,_ in docstrings()]),torch.as_tensor([o[1 if label=='library' else 2] for o in docstrings()])

small_lstm = dict(emb_sz=64, n_hid=128, n_layers=3, pad_token=1, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.02, weight_p=.1)

# --- the tasks --------------------------------------------------------------------------------------------------------------------
kinds_of_model = dict(cnn=dict(arch='resnet10t'), vit=dict(arch='test_vit', patch_size=4))
first,second = tuple(range(5)),tuple(range(5, 10))
sources = [('digits','cnn'), ('digits','vit'), ('shapes','cnn'), ('shapes','vit'), ('text','lstm')]
design = [('digits','cnn'), ('shapes','vit'), ('library','lstm')]
kept_aside = [('digits','vit'), ('shapes','cnn'), ('kind','lstm')]
tasks = design + kept_aside
images = dict(digits=digits, shapes=shapes)

def loaders(x, y, test, bs):
    dls = DataLoaders.from_dsets(list(zip(x, y)), test, bs=bs, num_workers=0)
    dls.valid.bs = 200
    return dls

class SkipValidation(Callback):
    "No validation during a fit; the end is what counts."
    def before_validate(self):
        if not self.learn.final_look: raise CancelValidException

def pretrain(data, model, folder):
    "Train a source model and save its body."
    set_seed(0)
    if data == 'text':
        x,_ = texts('library')
        items = [(row[:-1], row[1:]) for row in x]
        dls = loaders(*zip(*items), items[:32], bs=32)
        lm = get_language_model(AWD_LSTM, vocab_size, {**awd_lstm_lm_config, **small_lstm})
        learn = quiet(Learner(dls, lm, loss_func=CrossEntropyLossFlat(ignore_index=1), splitter=awd_lstm_lm_split, cbs=rnn_cbs()))
        learn.fit_one_cycle(15, 1e-2)
        torch.save(learn.model[0].state_dict(), folder/'text_lstm.pth')
    else:
        x,y = images[data](first)
        dls = loaders(x, y, list(zip(x[:32], y[:32])), bs=32)
        learn = quiet(timm_learner(dls, **kinds_of_model[model], pretrained=False, n_out=5, loss_func=CrossEntropyLossFlat()))
        learn.fit_one_cycle(*((10, 3e-3) if model == 'cnn' else (25, 1e-3)))
        torch.save(learn.model[0].state_dict(), folder/f'{data}_{model}.pth')

def make(data, model, seed, folder, n_groups=4):
    "A frozen learner with the source's body, for `n_labels` examples of the target; it is judged on `n_test` others. Text models come in fastai's five groups."
    x,y = images[data](second) if data in images else texts(data)
    order = np.random.default_rng(seed).permutation(len(x))
    train,test = order[:n_labels[data, model]],order[-n_test:]
    dls = loaders(x[train], y[train], list(zip(x[test], y[test])), bs=16 if model == 'lstm' else 8)
    set_seed(seed)
    common = dict(loss_func=CrossEntropyLossFlat(), metrics=error_rate)
    if model == 'lstm':
        net = get_text_classifier(AWD_LSTM, vocab_size, int(y.max())+1, seq_len=length, config={**awd_lstm_clas_config, **small_lstm}, pad_idx=1)
        net[0].module.load_state_dict(torch.load(folder/'text_lstm.pth'))
        learn = Learner(dls, net, splitter=awd_lstm_clas_split, cbs=[*rnn_cbs(), SkipValidation()], **common)
    else:
        learn = timm_learner(dls, **kinds_of_model[model], pretrained=False, n_out=5, n_groups=n_groups, cbs=SkipValidation(), **common)
        learn.model[0].load_state_dict(torch.load(folder/f'{data}_{model}.pth'))
    learn.final_look = False
    learn.freeze()
    return quiet(learn)

def error(learn):
    "Share of the target's test examples that are wrong."
    learn.final_look = True
    return float(learn.validate()[1])
