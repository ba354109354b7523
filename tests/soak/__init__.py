"""Long runs that end by themselves: does anything of ours grow, or harm anybody, in ten minutes?"""
