"""The page of `gendiff ui MODEL`: a form drawn from the model's conditions, and what it was answered with.

    fields    the form: a field for each condition and for what else the domain's request takes
    asking    what was typed, checked field by field, as the arguments of `gendiff sample`
    lines     the shell line and the Python lines that repeat it
    studio    draws, one request at a time, in the thread that owns the model
    server    the page over HTTP, on this machine alone

Read in this order. A condition of a stranger's has a field as ours have: by its classes, its span (`Condition.span`),
its files (`Condition.files`), or else a line for what `Condition.read` reads.
"""
