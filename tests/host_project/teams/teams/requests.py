def team_of(request):
    """The team that a request names, if its user is a member; else his only one, or None."""
    teams = request.user.team_set.all()
    if name := request.headers.get("X-Team"):
        teams = teams.filter(name=name)
    found = list(teams[:2])
    return found[0] if len(found) == 1 else None
