"""The model of videos of `diffusion video_demo`: how its clips are made, judged and reported."""
