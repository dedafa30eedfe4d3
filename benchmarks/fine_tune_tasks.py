"""Transfer tasks on which ways of fine-tuning are compared: a source to pretrain on, a target with few labels, made from what is installed.

The source model of a task is trained once; the seed of a run draws the target's labelled examples, the new head and the order of batches.
Three tasks are kept aside, named before the benchmark was run: both halves hold a CNN, a ViT and a text model."""
import ast, re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np, torch
from PIL import Image, ImageDraw
from sklearn import datasets
from fastai.vision.all import *
from fastai.text.all import *
from fastai_lrx.all import *
from measure import quiet

n_labels = {('digits','cnn'): 60, ('digits','vit'): 150, ('shapes','cnn'): 100, ('shapes','vit'): 200,
            ('library','lstm'): 300, ('field','lstm'): 300}
n_test = dict(digits=700, shapes=1000, library=1000, field=800)

# --- images -------------------------------------------------------------------------------------------------------------------
@cache
def digits(classes):
    "scikit-learn's digits of these classes, enlarged to 32 pixels."
    d = datasets.load_digits()
    keep = np.isin(d.target, classes)
    x = F.interpolate(torch.as_tensor(d.images[keep, None]/8-1).float(), size=32, mode='bilinear')
    return x,torch.as_tensor(d.target[keep]-min(classes))

def polygon(n, turn, inner=1.):
    return [(np.cos(a)*(1 if i%2==0 else inner), np.sin(a)*(1 if i%2==0 else inner))
            for i,a in enumerate(turn + np.arange(n)*2*np.pi/n)]
outlines = dict(triangle=polygon(3, -np.pi/2), square=polygon(4, np.pi/4), star=polygon(10, -np.pi/2, 0.4),
                bar=[(-1,-.25),(1,-.25),(1,.25),(-1,.25)], disk=polygon(40, 0),
                pentagon=polygon(5, -np.pi/2),
                cross=[(-.3,-1),(.3,-1),(.3,-.3),(1,-.3),(1,.3),(.3,.3),(.3,1),(-.3,1),(-.3,.3),(-1,.3),(-1,-.3),(-.3,-.3)],
                arrow=[(-1,-.25),(.1,-.25),(.1,-.8),(1,0),(.1,.8),(.1,.25),(-1,.25)],
                corner=[(-.8,-.8),(-.2,-.8),(-.2,.3),(.8,.3),(.8,.8),(-.8,.8)], hexagon=polygon(6, 0))

@cache
def shapes(classes, n=2500):
    "32-pixel gray images of filled outlines at random places, sizes and angles, over lines and noise."
    rng = np.random.default_rng(min(classes))
    y = rng.choice(list(classes), n)
    def draw(k):
        img = Image.new('L', (64,64), int(rng.integers(60, 120)))
        pen = ImageDraw.Draw(img)
        for _ in range(3):
            pen.line([tuple(rng.integers(0, 64, 2)) for _ in range(2)], fill=int(rng.integers(90, 180)), width=2)
        turn,size,(cx,cy) = rng.uniform(-.4, .4),rng.uniform(14, 24),rng.uniform(26, 38, 2)
        pen.polygon([(cx+size*(u*np.cos(turn)-v*np.sin(turn)), cy+size*(u*np.sin(turn)+v*np.cos(turn)))
                     for u,v in list(outlines.values())[k]], fill=int(rng.integers(150, 255)))
        return np.asarray(img.resize((32,32)))/128-1
    return torch.as_tensor(np.stack([draw(k)[None] for k in y])
                           + rng.normal(0, .15, (n,1,32,32))).float(),torch.as_tensor(y-min(classes))

# --- text: docstrings of libraries that come with fastai --------------------------------------------------------------------------
length,vocab_size = 60,4000
libraries = 'numpy', 'scipy', 'pandas', 'torch', 'sklearn', 'matplotlib', 'sympy', 'networkx'

@cache
def docstrings():
    "(words, library, part) of the first `length` words of every docstring in the source files of the libraries; the part is the folder or file below the library's own."
    res,seen = [],set()
    for library in libraries:
        root = Path(find_spec(library).origin).parent
        for file in sorted(root.rglob('*.py')):
            parts = file.relative_to(root).parts
            if not {'tests', 'testing', '_vendor'} & set(parts):
                for words in words_of(file):
                    if words not in seen: res.append((words, library, parts[0]))
                    seen.add(words)
    return [res[i] for i in np.random.default_rng(0).permutation(len(res))]

def words_of(file):
    "The first `length` words of every docstring of a public class or function in `file` that has so many."
    try: tree = ast.parse(file.read_text(encoding='utf8'))
    except (SyntaxError, UnicodeDecodeError): return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            words = re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", (ast.get_docstring(node) or '').lower())[:length]
            if len(words) == length: yield tuple(words)

@cache
def texts():
    "All docstrings as rows of word numbers, from the most frequent word on; 0 is unknown, 1 would pad."
    counts = Counter(w for words,*_ in docstrings() for w in words)
    number = {w: i+2 for i,(w,_) in enumerate(counts.most_common(vocab_size-2))}
    return torch.as_tensor([[number.get(w, 0) for w in words] for words,*_ in docstrings()])

@cache
def labelled_texts(task):
    "Rows of word numbers with a label: which of four libraries, or which of four parts of sympy."
    classes = ['scipy', 'pandas', 'torch', 'sympy'] if task == 'library' else ['polys', 'physics',
        'combinatorics', 'geometry']
    labels = [(library if task == 'library' else part if library == 'sympy' else None)
              for _,library,part in docstrings()]
    keep = [i for i,label in enumerate(labels) if label in classes]
    return texts()[keep],torch.as_tensor([classes.index(labels[i]) for i in keep])

def small_lstm(dropout):
    return dict(emb_sz=100, n_hid=200, n_layers=3, pad_token=1, output_p=dropout, hidden_p=dropout, input_p=dropout,
                embed_p=dropout/5, weight_p=dropout)

# --- the tasks --------------------------------------------------------------------------------------------------------------------
kinds_of_model = dict(cnn=dict(arch='resnet10t'), vit=dict(arch='test_vit', patch_size=4))
first,second = tuple(range(5)),tuple(range(5, 10))
sources = [('digits','cnn'), ('digits','vit'), ('shapes','cnn'), ('shapes','vit'), ('text','lstm')]
design = [('digits','cnn'), ('shapes','vit'), ('library','lstm')]
kept_aside = [('digits','vit'), ('shapes','cnn'), ('field','lstm')]
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
        items = [(row[:-1], row[1:]) for row in texts()]
        dls = loaders(*zip(*items), items[:64], bs=64)
        lm = get_language_model(AWD_LSTM, vocab_size, {**awd_lstm_lm_config, **small_lstm(0.05)})
        learn = quiet(Learner(dls, lm, loss_func=CrossEntropyLossFlat(), splitter=awd_lstm_lm_split, cbs=rnn_cbs()))
        learn.fit_one_cycle(4, 1e-2, moms=(0.8, 0.7, 0.8))
        torch.save(learn.model[0].state_dict(), folder/'text_lstm.pth')
    else:
        x,y = images[data](first)
        dls = loaders(x, y, list(zip(x[:32], y[:32])), bs=32)
        learn = quiet(timm_learner(dls, **kinds_of_model[model], pretrained=False, n_out=5,
                                   loss_func=CrossEntropyLossFlat()))
        learn.fit_one_cycle(*((10, 3e-3) if model == 'cnn' else (25, 1e-3)))
        torch.save(learn.model[0].state_dict(), folder/f'{data}_{model}.pth')

def make(data, model, seed, folder, n_groups=4):
    "A frozen learner with the source's body, for `n_labels` examples of the target; it is judged on `n_test` others, never trained on. Text models come in fastai's five groups."
    x,y = images[data](second) if data in images else labelled_texts(data)
    order = np.random.default_rng(seed).permutation(len(x))
    train,test = order[:n_labels[data, model]],order[-n_test[data]:]
    dls = loaders(x[train], y[train], list(zip(x[test], y[test])), bs=16 if model == 'lstm' else 8)
    set_seed(seed)
    common = dict(loss_func=CrossEntropyLossFlat(), metrics=error_rate)
    if model == 'lstm':
        net = get_text_classifier(AWD_LSTM, vocab_size, int(y.max())+1, seq_len=length,
                                  config={**awd_lstm_clas_config, **small_lstm(0.1)}, pad_idx=1)
        net[0].module.load_state_dict(torch.load(folder/'text_lstm.pth'))
        learn = Learner(dls, net, splitter=awd_lstm_clas_split, cbs=[*rnn_cbs(), SkipValidation()], **common)
    else:
        learn = timm_learner(dls, **kinds_of_model[model], pretrained=False, n_out=5, n_groups=n_groups,
                             cbs=SkipValidation(), **common)
        learn.model[0].load_state_dict(torch.load(folder/f'{data}_{model}.pth'))
    learn.final_look = False
    learn.freeze()
    return quiet(learn)

def error(learn):
    "Share of the target's test examples that are wrong."
    learn.final_look = True
    return float(learn.validate()[1])
