"""MuJoCo: models batched over slots, the kernel that steps them, its workers and the screen."""
