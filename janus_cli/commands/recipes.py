"""`janus recipes`: what is shipped, and what a recipe says once every default is filled in."""

from typing import Annotated, Literal

import typer

from janus_cli.commands.options import ObjectiveOption, SetOption


def recipes(
    action: Annotated[Literal["list", "show"], typer.Argument(help="What to do.")] = "list",
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Which recipe to show; by default demo.")
    ] = None,
    changes: SetOption = None,
    objective: ObjectiveOption = None,
) -> None:
    """List the recipes, or show one with every default filled in.

    Examples:
      janus recipes
      janus recipes show iwslt14
      janus recipes show multi30k --objective ar --set training.updates=5000 > mine.yaml
      janus train --recipe mine.yaml
    """
    from janus_cli import console, recipe_load
    from janus_cli.errors import UsageError

    if action == "show":
        if name is None:
            console.say("no recipe named: this is demo")
        typer.echo(recipe_load.dump(recipe_load.load(name or "demo", changes, objective)), nl=False)
        return
    if name or changes or objective:
        raise UsageError(
            "`janus recipes list` takes no name and no changes", "to see one recipe: `janus recipes show NAME`"
        )
    rows = []
    for found in recipe_load.available():
        recipe = recipe_load.load(found)
        rows.append((found, f"{recipe.data.source}-{recipe.data.target}", recipe.about))
    width = max(len(row[0]) for row in rows)
    for found, pair, about in rows:
        typer.echo(f"{found:<{width}}  {pair:<7}  {about}")
    console.say("show one with `janus recipes show NAME`")
