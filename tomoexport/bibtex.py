"""
@article{JimenezDeLaMorena2022,
    title = {ScipionTomo: Towards cryo-electron tomography software integration, reproducibility, and validation},
    author = {Jiménez de la Morena, J. and Conesa, P. and Fonseca, Y. C. and others},
    journal = {Journal of Structural Biology},
    volume = {214},
    number = {3},
    pages = {107872},
    year = {2022},
    doi = {10.1016/j.jsb.2022.107872}
}

@article{Tegunov2019,
    title = {Real-time cryo-electron microscopy data preprocessing with Warp},
    author = {Tegunov, D. and Cramer, P.},
    journal = {Nature Methods},
    volume = {16},
    pages = {1146--1152},
    year = {2019},
    doi = {10.1038/s41592-019-0580-y}
}

@article{Tegunov2021,
    title = {Multi-particle cryo-EM refinement with M visualizes ribosome-antibiotic complex at 3.5 Å in cells},
    author = {Tegunov, D. and Xue, L. and Dienemann, C. and Cramer, P. and Mahamid, J.},
    journal = {Nature Methods},
    volume = {18},
    pages = {186--193},
    year = {2021},
    doi = {10.1038/s41592-020-01054-7}
}

@article{Zivanov2022,
    title = {A Bayesian approach to single-particle electron cryo-tomography in RELION-4.0},
    author = {Zivanov, J. and Otón, J. and Ke, Z. and others},
    journal = {eLife},
    volume = {11},
    pages = {e83724},
    year = {2022},
    doi = {10.7554/eLife.83724}
}

@article{Burt2024,
    title = {An image processing pipeline for electron cryo-tomography in RELION-5},
    author = {Burt, A. and Toader, B. and Warshamanage, R. and others},
    journal = {FEBS Open Bio},
    volume = {14},
    number = {11},
    pages = {1788--1804},
    year = {2024},
    doi = {10.1002/2211-5463.13873}
}

@article{Grant2015,
    title = {Measuring the optimal exposure for single particle cryo-EM using a 2.6 Å reconstruction of
             rotavirus VP6},
    author = {Grant, T. and Grigorieff, N.},
    journal = {eLife},
    volume = {4},
    pages = {e06980},
    year = {2015},
    doi = {10.7554/eLife.06980}
}

@article{Gilbert1972,
    title = {Iterative methods for the three-dimensional reconstruction of an object from projections},
    author = {Gilbert, P.},
    journal = {Journal of Theoretical Biology},
    volume = {36},
    pages = {105--117},
    year = {1972},
    doi = {10.1016/0022-5193(72)90180-4}
}

@article{Harauz1986,
    title = {Exact filters for general geometry three dimensional reconstruction},
    author = {Harauz, G. and {van Heel}, M.},
    journal = {Optik},
    volume = {73},
    pages = {146--156},
    year = {1986}
}

@article{Jackson1991,
    title = {Selection of a convolution function for Fourier inversion using gridding},
    author = {Jackson, J. I. and Meyer, C. H. and Nishimura, D. G. and Macovski, A.},
    journal = {IEEE Transactions on Medical Imaging},
    volume = {10},
    number = {3},
    pages = {473--478},
    year = {1991},
    doi = {10.1109/42.97598}
}

@article{Rosenthal2003,
    title = {Optimal determination of particle orientation, absolute hand, and contrast loss in single-particle
             electron cryomicroscopy},
    author = {Rosenthal, P. B. and Henderson, R.},
    journal = {Journal of Molecular Biology},
    volume = {333},
    number = {4},
    pages = {721--745},
    year = {2003},
    doi = {10.1016/j.jmb.2003.07.013}
}

@article{Burnley2017,
    title = {Recent developments in the CCP-EM software suite},
    author = {Burnley, T. and Palmer, C. M. and Winn, M.},
    journal = {Acta Crystallographica Section D},
    volume = {73},
    pages = {469--477},
    year = {2017},
    doi = {10.1107/S2059798317007859}
}
"""
