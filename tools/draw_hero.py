"""The first picture of README and site, light and dark, drawn into nbs/index.ipynb: one run of some minutes on `example_learner`."""
import base64, io, json
from pathlib import Path

import matplotlib as mpl
from fastai.vision.all import *
from fastai_lrx.all import *
from fastai_lrx.core.plots import add_legend, new_axes, plot_groups
from fastai_lrx.demo import example_learner

index = Path(__file__).parent.parent/'nbs'/'index.ipynb'
pale = '#c9d1d9'
dark = {'axes.facecolor': '#0d1117', 'figure.facecolor': '#0d1117'} | dict.fromkeys(
    ['text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color', 'grid.color'], pale)

def run():
    "A sweep, the rates of a planned fit, and a learner that has trained in three cycles."
    set_seed(0)
    learn = example_learner(download=False)
    if learn.dls.c != 10: raise SystemExit('tools/draw_hero.py: needs the pictures and weights that tools/example_data.py puts in place')
    with learn.no_bar(), learn.no_logging():
        found = learn.lr_find(show_plot=False)
        with learn.dry_run() as plan: learn.fine_tune_discriminative(5)
        learn.fit_sgdr(3, 2, found.lr, cycle_mult=1, cbs=Snapshots())
    return found,plan.fits[0].hypers['lr'],learn

def draw(found, lrs, learn)->str:
    "The picture as base64."
    fig,axes = new_axes(1, 3, size=(3.6, 3.1))
    found.plot(axes[0]).set_title(f'find: lr_find() suggests {found.lr:.2g}')
    plot_groups(axes[1], lrs).set_title('spread: a rate for each layer')
    if mpl.rcParams['axes.facecolor'] != 'white':                  # dark lines would be lost
        for line,v in zip(axes[1].lines, np.linspace(0.3, 1, len(lrs[0]))): line.set_color(mpl.colormaps['viridis'](v))
    learn.recorder.plot_cycles(axes[2]).set_title('vary, keep: a model from each cycle')
    handles,labels = axes[1].get_legend_handles_labels()
    add_legend(axes[1], handles=[handles[0], handles[-1]], labels=[labels[0], labels[-1]])
    for ax,loc in zip(axes, ('upper left', 'upper right', 'upper right')):
        ax.get_legend().set_loc(loc)
        ax.title.set_fontsize('medium')
        ax.set_ylim(top=ax.get_ylim()[0] + 1.25*np.ptp(ax.get_ylim()))     # room for the legend
        for text in ax.get_legend().get_texts(): text.set_fontsize('x-small')
    fig.savefig(png := io.BytesIO(), dpi=180)
    return base64.b64encode(png.getvalue()).decode()

def main():
    seen = run()
    pictures = [draw(*seen)]
    with mpl.rc_context(dark): pictures.append(draw(*seen))
    nb = json.loads(index.read_text())
    next(c for c in nb['cells'] if c['id']=='hero')['outputs'] = [
        dict(output_type='display_data', data={'image/png': png, 'text/plain': ['<Figure>']}, metadata={}) for png in pictures]
    index.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n')

if __name__=='__main__': main()
