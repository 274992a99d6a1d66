"""Does a corrector help, and where does it hurt: answers of upstreams, judged with and without it."""
