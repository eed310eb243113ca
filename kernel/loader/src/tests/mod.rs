//! Tests on synthetic images, and on real kernels where the environment names some.

mod bzimage;
mod elf;
mod entry;
mod images;
mod multiboot;
mod mutations;
mod pieces;
mod protected;
mod real;
