//! A scripted backend for host tests: exits in, outcomes out. (Being written by the hypervisor's tests.)
