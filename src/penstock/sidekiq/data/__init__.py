"""What is in Sidekiq's keys, for people: look at it and mend it, as Ruby's ``sidekiq/api`` does.

``Data`` is the way in; every class here is made with one. Everything that waits for the server is a coroutine.
"""
