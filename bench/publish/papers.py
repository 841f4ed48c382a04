"""Where the methods come from, for a release's citation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper as it is cited.

    Attributes:
        authors: Given and family names; empty if the paper is anonymous.
        venue: Conference, journal or series.
        link: A page of the paper, if there is a stable one.
    """

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    link: str = ""


def _arxiv(title: str, authors: str, year: int, venue: str, number: str) -> Paper:
    names = tuple(authors.split(", "))
    return Paper(title, names, year, venue, f"https://arxiv.org/abs/{number}")


AUTOAUGMENT = _arxiv(
    "AutoAugment: Learning Augmentation Strategies from Data",
    "Ekin D. Cubuk, Barret Zoph, Dandelion Mané, Vijay Vasudevan, Quoc V. Le",
    2019, "CVPR", "1805.09501",
)  # fmt: skip
RANDAUGMENT = _arxiv(
    "RandAugment: Practical automated data augmentation with a reduced search space",
    "Ekin D. Cubuk, Barret Zoph, Jonathon Shlens, Quoc V. Le",
    2020, "CVPR Workshops", "1909.13719",
)  # fmt: skip
STN = _arxiv(
    "Self-Tuning Networks: Bilevel Optimization of Hyperparameters using Structured Best-Response "
    "Functions",
    "Matthew MacKay, Paul Vicol, Jon Lorraine, David Duvenaud, Roger Grosse",
    2019, "ICLR", "1903.03088",
)  # fmt: skip
HYPERBAND = _arxiv(
    "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization",
    "Lisha Li, Kevin Jamieson, Giulia DeSalvo, Afshin Rostamizadeh, Ameet Talwalkar",
    2018, "Journal of Machine Learning Research", "1603.06560",
)  # fmt: skip
ASHA = _arxiv(
    "A System for Massively Parallel Hyperparameter Tuning",
    "Liam Li, Kevin Jamieson, Afshin Rostamizadeh, Ekaterina Gonina, Moritz Hardt, "
    "Benjamin Recht, Ameet Talwalkar",
    2020, "MLSys", "1810.05934",
)  # fmt: skip

PAPERS: dict[str, tuple[Paper, ...]] = {
    "none": (),
    "standard": (),
    "gar": (
        _arxiv(
            "In-Loop Meta-Learning with Gradient-Alignment Reward",
            "Samuel Müller, André Biedenkapp, Frank Hutter",
            2021, "arXiv", "2102.03275",
        ),
    ),
    "ohl": (
        _arxiv(
            "Online Hyper-parameter Learning for Auto-Augmentation Strategy",
            "Chen Lin, Minghao Guo, Chuming Li, Xin Yuan, Wei Wu, Junjie Yan, Dahua Lin, "
            "Wanli Ouyang",
            2019, "ICCV", "1905.07373",
        ),
    ),
    "autodo": (
        _arxiv(
            "AutoDO: Robust AutoAugment for Biased Data with Label Noise via Scalable "
            "Probabilistic Implicit Differentiation",
            "Denis Gudovskiy, Luca Rigazio, Shun Ishizaka, Kazuki Kozuka, Sotaro Tsukizawa",
            2021, "CVPR", "2103.05863",
        ),
    ),
    "fds": (
        Paper(
            "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons",
            (), 2021, "submitted to ICLR",
        ),
    ),
    "hba": (
        _arxiv(
            "Hypernetwork-Based Augmentation",
            "Chih-Yang Chen, Che-Han Chang",
            2020, "arXiv", "2006.06320",
        ),
    ),
    "stn": (STN,),
    "cutout": (
        _arxiv(
            "Improved Regularization of Convolutional Neural Networks with Cutout",
            "Terrance DeVries, Graham W. Taylor",
            2017, "arXiv", "1708.04552",
        ),
    ),
    "mixup": (
        _arxiv(
            "mixup: Beyond Empirical Risk Minimization",
            "Hongyi Zhang, Moustapha Cisse, Yann N. Dauphin, David Lopez-Paz",
            2018, "ICLR", "1710.09412",
        ),
    ),
    "cutmix": (
        _arxiv(
            "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable "
            "Features",
            "Sangdoo Yun, Dongyoon Han, Seong Joon Oh, Sanghyuk Chun, Junsuk Choe, Youngjoon Yoo",
            2019, "ICCV", "1905.04899",
        ),
    ),
    "augmix": (
        _arxiv(
            "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
            "Dan Hendrycks, Norman Mu, Ekin D. Cubuk, Barret Zoph, Justin Gilmer, "
            "Balaji Lakshminarayanan",
            2020, "ICLR", "1912.02781",
        ),
    ),
    "autoaugment": (AUTOAUGMENT,),
    "fast-autoaugment": (
        _arxiv(
            "Fast AutoAugment",
            "Sungbin Lim, Ildoo Kim, Taesup Kim, Chiheon Kim, Sungwoong Kim",
            2019, "NeurIPS", "1905.00397",
        ),
    ),
    "randaugment": (RANDAUGMENT,),
    "randaugment-grid": (RANDAUGMENT,),
    "uniformaugment": (
        _arxiv(
            "UniformAugment: A Search-free Probabilistic Data Augmentation Approach",
            "Tom Ching LingChen, Ava Khonsari, Amirreza Lashkari, Mina Rafi Nazari, "
            "Jaspreet Singh Sambee, Mario A. Nascimento",
            2020, "arXiv", "2003.14348",
        ),
    ),
    "trivialaugment": (
        _arxiv(
            "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
            "Samuel G. Müller, Frank Hutter",
            2021, "ICCV", "2103.10158",
        ),
    ),
    "hypergradient-descent": (
        _arxiv(
            "Online Learning Rate Adaptation with Hypergradient Descent",
            "Atilim Gunes Baydin, Robert Cornish, David Martinez Rubio, Mark Schmidt, Frank Wood",
            2018, "ICLR", "1703.04782",
        ),
    ),
    "pbt": (
        _arxiv(
            "Population Based Augmentation: Efficient Learning of Augmentation Policy Schedules",
            "Daniel Ho, Eric Liang, Ion Stoica, Pieter Abbeel, Xi Chen",
            2019, "ICML", "1905.05393",
        ),
        _arxiv(
            "Population Based Training of Neural Networks",
            "Max Jaderberg, Valentin Dalibard, Simon Osindero, Wojciech M. Czarnecki, "
            "Jeff Donahue, Ali Razavi, Oriol Vinyals, Tim Green, Iain Dunning, Karen Simonyan, "
            "Chrisantha Fernando, Koray Kavukcuoglu",
            2017, "arXiv", "1711.09846",
        ),
    ),
    "search": (
        Paper(
            "Random Search for Hyper-Parameter Optimization",
            ("James Bergstra", "Yoshua Bengio"),
            2012, "Journal of Machine Learning Research",
        ),
    ),
    "halving": (HYPERBAND, ASHA),
}  # fmt: skip
"""Method's name to its papers."""
