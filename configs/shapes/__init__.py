"""Shapes in space, each of parametric solids with drawn proportions, whose kind is the class:

    diffusion train --config=shapes/points --workdir=runs/points3d
    diffusion sample --workdir=runs/points3d
    diffusion evaluate --workdir=runs/points3d --metrics=clouds

`shapes/points` makes point clouds by a transformer of sets, `shapes/voxels` signed distances by a U-Net of volumes. The
last command measures 1-nearest-neighbour accuracy, coverage and minimum matching distance. See docs/shapes.md.
"""
