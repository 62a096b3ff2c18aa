"""Mutations of valid files, read again: whatever a file holds, there is a right result or one sentence.

`python -m fuzz` (with `tests` on the path; `nox -s fuzz`) mutates the valid files of every target and reads each one.
What comes must be the result of the entries that were not touched, with a count of what was left out, or an exception
of a documented type whose message is one sentence with the file's name; within five seconds and a gigabyte.

    documents    content of files as lists and dicts, and back
    odd_values   what people's and programs' files hold in place of a value
    structure    mutations of a document
    content      mutations of bytes
    target       what is to be read: valid files, a call, what it may raise, what its result consists of
    judgment     whether what came is right
    case         one mutation, from a seed and a number
    runner       many cases in processes that may hang, crash or run out of memory
    targets      our targets, a module for each kind
"""
