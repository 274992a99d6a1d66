"""The embedded suite: a closed world in plain English, its tasks, faults, upstreams' profiles, judge and teacher."""
