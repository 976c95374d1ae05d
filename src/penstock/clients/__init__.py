"""Clients: how drivers and stores talk to a server, one adapter per client library, behind one narrow port."""
